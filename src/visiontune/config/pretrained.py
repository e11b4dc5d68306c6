"""The group `pretrained` and the rest of a config: what does not fit, and what does not apply."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from visiontune.config.compose import train_config
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


def refuse_unused(overrides: Sequence[str], weights_from: str) -> None:
    """Refuse keys of the group `pretrained` with `weights_from`, whose weights are loaded instead.

    Args:
        overrides: of the command line.

    Raises:
        UserError: the message has the first of them.
    """
    for override in overrides:
        if override.lstrip("+").startswith("pretrained."):
            raise UserError(
                f"{override} has no effect with {shell_override('weights_from', weights_from)}, since the weights of "
                "that run are loaded; leave it out"
            )


def image_defaults(overrides: Sequence[str]) -> dict[str, Any]:
    """`image_size` and `resize` of the group data as they are without a pretrained model; none that an override sets.

    A classifier on the backbone of a detector has no use for images of 1056 pixels.

    Args:
        overrides: of the command line.
    """
    keys = {override: override.lstrip("+~").partition("=")[0] for override in overrides}
    others = [
        override
        for override, key in keys.items()
        if not (key.startswith(("pretrained.", "backbone.", "heads.")) or key == "pretrained")
    ]
    data = train_config([*others, "pretrained=none"]).data
    return {name: data[name] for name in ("image_size", "resize") if f"data.{name}" not in keys.values()}
