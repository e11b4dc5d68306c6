"""Several options of `strategy` in one run: one says what trains, others change the steps."""

from hydra.core.override_parser.overrides_parser import OverridesParser

from visiontune.errors import UserError
from visiontune.search.trials import AUTO, composed


def check_combination(overrides: list[str]) -> None:
    """
    Raises:
        UserError: two of `strategy=[...]` say what trains, or how weights are averaged; the last alone would be heard.
    """
    for override in OverridesParser.create().parse_overrides(overrides):
        names = override.value() if override.key_or_group == "strategy" else None
        if not isinstance(names, list):
            continue
        saying = [str(name) for name in names if _says_what_trains(str(name))]
        if len(saying) > 1:
            raise UserError(
                f"{override.input_line}: {' and '.join(saying)} each say what trains; keep one of them. What goes with "
                "any is l2_sp, auto_rgn, sam, wise_ft, ema or swa"
            )
        if {"ema", "swa"} <= set(names):
            raise UserError(f"{override.input_line}: ema and swa each say how weights are averaged; keep one of them")


def _says_what_trains(option: str) -> bool:
    return option == AUTO or "_target_" in composed([f"strategy={option}"], option).strategy
