"""Read the YAML and JSON of a run that may come from elsewhere: bounded in size and depth, without resolvers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from visiontune.errors import UserError, first_line

MAX_YAML, MAX_JSON = 2 * 2**20, 64 * 2**20  # bytes; environment.json holds the diff of the code
MAX_TABLE = 2**29  # bytes; splits.csv of five million images
MAX_NODES, MAX_DEPTH, MAX_REFERENCES = 200_000, 50, 100
LONG_NUMBER = re.compile(r"[-+]?\d[\da-fA-F_:.xob+-]{200,}")  # slow to read and impossible to print
REFERENCE = re.compile(r"\$\{\.*\w+(\.\w+|\[\d+\])*\}")


def check_files(*paths: Path) -> None:
    """Check files of a run that may be missing, before one of them is opened.

    Raises:
        UserError: one is a pipe, which would wait for ever, a device or a folder; or it is too large for a table.
    """
    for path in filter(Path.exists, paths):
        if not path.is_file():
            raise UserError(f"{path} is not a file: delete it, or copy that of the run there")
        if (size := path.stat().st_size) > MAX_TABLE:
            raise UserError(f"{path} has {size:,} bytes: expected at most {MAX_TABLE:,}")


def read_yaml(path: Path) -> DictConfig:
    """Read a mapping and resolve its references, such as `${data.root}`.

    A reference is a whole value and names another value, not a group. Resolvers such as `${oc.env:HOME}` and YAML
    aliases, which can expand a small file to any size, are refused.

    Raises:
        UserError: the file is too large or too deep, is not a mapping, or has aliases, resolvers or wrong references.
    """
    _check_size(path, MAX_YAML)
    try:
        text = path.read_text(encoding="utf-8")
        _check_events(path, text)
        cfg = OmegaConf.create(text)
        if not isinstance(cfg, DictConfig):
            raise UserError(f"{path} is not a config: expected a mapping, such as the config.yaml of a run")
        for count, (place, node, key) in enumerate(_references(cfg), 1):
            if count > MAX_REFERENCES:
                raise UserError(
                    f"{path} has more than {MAX_REFERENCES} references, which the config of a run never has"
                )
            _check_reference(path, place, node, key)
        return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[return-value]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read as a config: {first_line(error)}") from error


def read_plain_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping in which references such as `${data.root}` are texts.

    Raises:
        UserError: the file is too large or too deep, is not a mapping, or has aliases.
    """
    _check_size(path, MAX_YAML)
    try:
        text = path.read_text(encoding="utf-8")
        _check_events(path, text)
        values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping")
    return {str(key): value for key, value in values.items()}


def _check_size(path: Path, most: int) -> None:
    if (size := path.stat().st_size) > most:
        raise UserError(f"{path} has {size:,} bytes: expected at most {most:,}, which the files of a run never reach")


def _check_events(path: Path, text: str) -> None:
    """Refuse aliases, and more nodes or levels than a config has, before anything is built."""
    depth = 0
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for count, event in enumerate(yaml.parse(text, Loader=loader)):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise UserError(f"{path}, line {line}: the YAML alias *{event.anchor}; write the value itself")
        if isinstance(event, yaml.ScalarEvent) and LONG_NUMBER.fullmatch(event.value):
            raise UserError(f"{path}, line {event.start_mark.line + 1}: a number of more than 200 digits")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise UserError(f"{path} has more than {MAX_NODES:,} values or {MAX_DEPTH} levels, which no config has")


def _references(node: DictConfig | ListConfig, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The place, parent and key of each interpolation."""
    keys = list(node) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        name = f"{place}.{key!s}".lstrip(".")
        inner = node._get_node(key)
        if inner is not None and OmegaConf.is_interpolation(node, key):
            yield name, node, key
        elif isinstance(inner, DictConfig | ListConfig) and not inner._is_none():
            yield from _references(inner, name)


def _check_reference(path: Path, place: str, node: Any, key: Any) -> None:
    text = str(node._get_node(key)._value())
    if not REFERENCE.fullmatch(text):
        raise UserError(
            f"{path}: {place}={text} is not a plain reference such as ${{data.root}}: write the value itself, since "
            "the config of a run is resolved"
        )
    if OmegaConf.is_config(node[key]):
        raise UserError(f"{path}: {place}={text} refers to a group: write the values themselves")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is too large, is not JSON, or holds something else.
    """
    _check_size(path, MAX_JSON)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
