"""Check the group `pretrained` against the rest of a config."""

from omegaconf import DictConfig

from visiontune.errors import UserError, shell_override


def check_pretrained(cfg: DictConfig, option: str | None) -> None:
    """Refuse another backbone than that of the pretrained model, and a second source of its weights.

    Args:
        option: of the group `backbone` on the command line, if there is one.

    Raises:
        UserError: the message has the key that does not fit.
    """
    settings, backbone = cfg.pretrained, cfg.backbone
    wrong = None
    if option not in (None, settings.backbone):
        wrong = f"backbone={option}"
    elif backbone.name != settings.backbone:
        wrong = f"backbone.name={backbone.name}"
    elif backbone.library not in ("auto", settings.library):
        wrong = f"backbone.library={backbone.library}"
    if wrong is not None:
        raise UserError(
            f"{wrong}: pretrained={settings.name} has the backbone {settings.backbone} of {settings.library}; leave "
            f"out {wrong}, or write pretrained=none"
        )
    if settings.weights is not None and backbone.weights is not None:
        raise UserError(
            f"{shell_override('backbone.weights', backbone.weights)}: pretrained={settings.name} fills the backbone "
            "too; leave out backbone.weights, or write pretrained.weights=null to fill the backbone alone"
        )
