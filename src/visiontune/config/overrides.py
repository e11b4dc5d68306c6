"""Quote the values of overrides, so that Hydra reads them as the user meant them."""

import os
import re
from collections.abc import Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from visiontune.config.compose import config_dir

# Keys whose values are always text: names, paths and columns. (A test compares them with the schema.)
TEXT = {
    *("name", "note", "run_dir", "sweep_dir", "run", "weights_from", "monitor", "paths.logs", "distill.teacher"),
    *("data.root", "data.name", "data.table", "data.label", "data.images", "data.masks", "data.annotations"),
    *("data.splits", "data.yaml", "data.suffix", "data.group_pattern", "backbone.name", "backbone.weights"),
    *("input", "output", "checkpoint", "backend", "data_root"),
}
TEXT_LISTS = {"tags", "data.labels", "data.targets", "data.classes"}
# A quoted value, a list, a mapping, an interpolation, or a function of Hydra such as choice(a,b).
STRUCTURED = re.compile(r"""^(['"\[{]|.*\$\{|(choice|range|interval|glob|shuffle|sort|tag|str|int|float|bool)\()""")


def prepare(overrides: Iterable[str], multirun: bool) -> list[str]:
    """Expand `~` to the home folder and quote the values of text keys, so that `name=2024_06` is text.

    Args:
        multirun: whether commas separate the values of a sweep.
    """
    return [_prepare(override, multirun) for override in overrides]


def _prepare(override: str, multirun: bool) -> str:
    key, sign, value = override.partition("=")
    if not sign or override.startswith("-"):
        return override
    name = key.lstrip("+")
    if value.startswith("~"):  # shells do not expand it after KEY=, and Hydra rejects it
        value = os.path.expanduser(value)
    if name in TEXT_LISTS and (simple := re.fullmatch(r"\[([^\[\]{}'\"$]*)\]", value)):
        value = f"[{','.join(_quote(item.strip()) for item in simple[1].split(',') if item.strip())}]"
    elif (name in TEXT or (config_dir() / name).is_dir()) and not STRUCTURED.match(value):  # or an option of a group
        value = ",".join(map(_quote, value.split(","))) if multirun else _quote(value)
    return f"{key}={value}"


def _quote(text: str) -> str:
    """Quote text, unless Hydra reads it as text without quotes; `null` and the empty value stay."""
    if text in ("", "null", "???") or _reads_as_text(text):
        return text
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    backslashes = len(text) - len(text.rstrip("\\"))  # a backslash escapes only before a quote, here the closing one
    return "'" + escaped + "\\" * backslashes + "'"


def _reads_as_text(text: str) -> bool:
    try:
        return OverridesParser.create().parse_override(f"key={text}").value() == text
    except HydraException:
        return False
