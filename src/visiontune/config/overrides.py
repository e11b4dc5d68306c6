"""Read the values of overrides as the user meant them, and write them in Hydra's grammar.

A value of a text key (the schema says which) is text, exactly as typed. Any other value that Hydra's grammar cannot
read, and that is no list or mapping, is text as well. Lists, mappings, sweeps and interpolations keep their grammar;
their items are read in the same way, and quotes around an item are not part of it.
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse

from visiontune.config.compose import config_dir
from visiontune.config.key_types import OPTION, holds_text, is_key, item_type, key_type, takes_null, takes_text
from visiontune.config.split import QUOTED, closing, split, split_pair
from visiontune.errors import UserError, printable, shell_override

CHOICE = re.compile(r"choice\((.*)\)", re.DOTALL)
FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|str|int|float|bool|json_str)\(.*\)", re.DOTALL)

# What Hydra reads without quotes, since its parser takes milliseconds: keys, values and lists, and text as text.
PLAIN_KEY = re.compile(r"\+{0,2}[a-z_]\w*(\.[a-z_]\w*)*", re.ASCII | re.IGNORECASE)
PLAIN_VALUE = re.compile(r"[\w./+-]+|\[[\w./+-]+(,[\w./+-]+)*\]", re.ASCII)
PLAIN_TEXT = re.compile(r"(?!(true|false|null|inf|nan)$)[a-z_/][\w./-]*", re.ASCII | re.IGNORECASE)


def prepare(verb: str, overrides: Iterable[str], multirun: bool) -> list[str]:
    """Expand `~` to the home folder, and quote values where Hydra's grammar needs it, such as `name='2024_06'`.

    Args:
        multirun: whether commas separate the values of a sweep.

    Raises:
        UserError: an argument is not `KEY=VALUE`, or the value cannot be read.
    """
    folders = {path.name for path in config_dir().iterdir() if path.is_dir()}
    groups = folders if verb in ("train", "plan", "fetch") else {name for name in folders if not is_key(verb, name)}
    return [_prepare(verb, groups, override, multirun) for override in overrides]


def _prepare(verb: str, groups: set[str], typed: str, multirun: bool) -> str:
    key, sign, value = typed.partition("=")
    name = key.lstrip("+~").partition("@")[0]
    annotation = OPTION if name in groups else key_type(verb, name)
    plain = PLAIN_TEXT if holds_text(annotation) else PLAIN_VALUE
    if len(typed) < 1000 and PLAIN_KEY.fullmatch(key) and plain.fullmatch(value):  # numbers have at most 4300 digits
        return typed
    if not sign and key.startswith("~") and _parse(key) is not None:  # removes a key
        return typed
    if not name or not sign or _parse(f"{key}=1") is None:
        example = "data.root='my photos'"
        raise UserError(f"{typed}: expected KEY=VALUE; the shell needs quotes around spaces, as in {example}")
    if "\x85" in value or printable(value) != value:  # YAML has no such line break
        raise UserError(
            f"{typed!r}: expected text in UTF-8, without the control character \\x85; rename the file or folder"
        )
    if value == "???":
        raise UserError(f"{typed}: ??? marks a value that is missing; write {name}=VALUE")
    if value.startswith("~"):  # shells do not expand it after KEY=, and Hydra rejects it
        value = os.path.expanduser(value)
    override = f"{key}={_write(value, annotation, multirun)}"
    parsed = _parse(override)
    if parsed is None:
        raise UserError(f"{typed}: this value cannot be read; write it into a YAML file (docs/configuration.md)")
    if parsed.is_sweep_override() and not multirun:
        is_list = parsed.value_type == ValueType.SIMPLE_CHOICE_SWEEP
        words = f", and {shell_override(name, f'[{value}]')} is a list" if is_list else ""
        raise UserError(f"{typed}: several values are a sweep, which needs -m{words}")
    for text in () if parsed.is_sweep_override() else _texts(parsed.value()):
        _check_interpolations(typed, text)
    return override


def _write(value: str, annotation: Any, multirun: bool) -> str:
    """Write the value of a key in Hydra's grammar."""
    if not multirun:
        return _write_single(value, annotation)
    choice = CHOICE.fullmatch(value)
    if choice is None and FUNCTION.fullmatch(value):
        return value
    items = split(choice[1] if choice else value)  # Hydra's `choice` would remove the quotes
    if choice or len(items) > 1 or any(map(QUOTED.fullmatch, items)):
        return ",".join(_write_item(item, annotation) for item in items)
    return _write_single(value, annotation)


def _write_item(item: str, annotation: Any) -> str:
    item = item.strip()
    return item if QUOTED.fullmatch(item) else _write_single(item, annotation)


def _write_single(value: str, annotation: Any) -> str:
    """Write a value that is no sweep."""
    if value == "null" and takes_null(annotation):
        return value
    if not holds_text(annotation) and _parse(f"key={value}") is not None:
        return value
    if closing(value) == len(value):  # a list or a mapping
        item = item_type(annotation, list if value[0] == "[" else dict)
        parts = split(value[1:-1], mapping=value[0] == "{")
        if item is not None and value[0] == "[":
            return f"[{','.join(_write_item(part, item) for part in parts)}]"
        if value[0] == "{" and takes_text(item) and takes_null(item):  # names: the schema reads the text
            return _quote(value)
        pairs = [split_pair(part) for part in parts]
        if item is not None and None not in pairs:
            return f"{{{','.join(f'{pair[0]}:{_write_item(pair[1], item)}' for pair in pairs if pair)}}}"
    if not takes_text(annotation) and _parse(f"key={value}") is not None:
        return value
    return _quote(value)


def _quote(text: str) -> str:
    """Quote text, unless Hydra reads it as the same text without quotes."""
    if PLAIN_TEXT.fullmatch(text):
        return text
    parsed = _parse(f"key={text}")
    if parsed is not None and parsed.value() == text:
        return text
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    backslashes = len(text) - len(text.rstrip("\\"))  # a backslash escapes only before a quote, here the closing one
    return "'" + escaped + "\\" * backslashes + "'"


def _parse(override: str) -> Override | None:
    """The override as Hydra reads it; None if its grammar cannot."""
    try:
        return OverridesParser.create().parse_override(override)
    except (HydraException, RecursionError, ValueError):  # too deep; a number of more than 4300 digits
        return None


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _check_interpolations(typed: str, text: str) -> None:
    """Refuse a `${` that is not an interpolation.

    Raises:
        UserError: OmegaConf cannot read it, or would remove a backslash.
    """
    try:
        if "${" in text:
            parse(text)
        is_valid = r"\${" not in text
    except GrammarParseError:
        is_valid = False
    if not is_valid:
        raise UserError(f"{typed}: '${{' begins an interpolation such as ${{seed}}; this one cannot be read")
