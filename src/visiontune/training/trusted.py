"""Check the config of a run that may come from elsewhere, before anything is built from it.

A config cannot give itself trust: only `trust=true` on the command line does.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from visiontune.config.check import check
from visiontune.config.compose import config_dir, train_config
from visiontune.config.derive import derive
from visiontune.errors import UserError, first_line
from visiontune.runs.reading import read_json
from visiontune.training.slots import PACKAGE, UnknownName, find_slot, is_in_package

ADVICE = "write trust=true if you know where the run comes from"
SWITCHES = {"_partial_": (True, False), "_recursive_": (True, False), "_convert_": ("none", "partial", "object", "all")}
SPECIAL = re.compile(r"_\w+_")
# Names of arguments whose value is a path or an address, whatever it looks like.
PLACE = re.compile(r"(^|_)(path|dir|dirpath|root|root_dir|folder|file|filename|uri|url|location|host|settings)s?$")
# Arguments of a logger that decide where it sends, or what it sends besides the run.
DESTINATIONS = ("entity", "config", "save_code", "sync_tensorboard", "fork_from", "resume_from", "id", "resume")
BACKBONE = ("name", "weights", "library", "min_matched", "shapes")
SQLITE = "sqlite:///"
Keys = tuple[str, ...]


class UnknownTarget(UserError):
    """The config names a class or function that is not installed."""

    def __init__(self, key: str, target: str) -> None:
        super().__init__(f"the run's config names {key}={target}, which does not exist")
        self.key, self.target = key, target


def check_trusted(cfg: DictConfig, trust: bool = False, folder: Path | None = None, loggers: bool = False) -> None:
    """Refuse a config that would run code, or write or send something outside the run.

    Args:
        trust: `trust=true` of the command line.
        folder: the run directory, in which paths may lie.
        loggers: whether loggers will be opened, so that their addresses matter.

    Raises:
        UnknownTarget: a slot names what its package does not have.
        UserError: a mapping builds what does not belong there; a path or an address leads outside the run; a value is
            no plain value; a task is no plain word; or the model is a file that is unpickled.
    """
    if trust:
        return
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    for path, value in _values(plain):
        if isinstance(value, str) and "${" in value:
            raise UserError(f"the run's config has {_key(path)}={value}: expected a value; {ADVICE}")
        if isinstance(value, Mapping):
            _check_node(path, value, folder, loggers)
    for task in plain.get("heads") or ():
        if not re.fullmatch(r"[\w-]+", str(task)):
            raise UserError(f"heads.{task}: the name of a task is a word of letters, digits, _ and -, such as breed")
    for key, value in (plain.get("backbone") or {}).items():
        if key.startswith("pretrained"):
            raise UserError(f"the run's config has backbone.{key}={value}, which loads weights; {ADVICE}")
        if key not in BACKBONE:
            _check_places(("backbone", key), value, folder)
    if plain.get("backend") not in (None, "onnx", "torch_export"):
        raise UserError(f"the run's config has backend={plain['backend']}, a file outside its folder export; {ADVICE}")


def check_overrides(overrides: Sequence[str], trust: bool = False) -> None:
    """Refuse the command line of a run if a new run with it would do what `check_trusted` refuses.

    Raises:
        UserError: an override cannot be read, has an interpolation, reads a config from elsewhere, or names a class
            that does not belong there.
    """
    if trust:
        return
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(f"the overrides in the run's environment.json cannot be read: {first_line(error)}") from error
    for override in parsed:
        key, text = override.key_or_group, str(override.input_line)
        is_option = override.is_add() or (config_dir() / key).is_dir()
        leads_away = is_option and (".." in re.split(r"[=/\\,\[]", text) or re.search(r"[=,\[]['\"]?[/~]", text))
        if key.split(".")[0] == "hydra" or "/" in key or "${" in text or ("." not in key and leads_away):
            raise UserError(f"the run's environment.json has the override {text}; {ADVICE}")
    try:
        composed = train_config(list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"the overrides in the run's environment.json cannot be read: {first_line(error)}") from error
    # The launcher belongs to a sweep, and a single run does not build it.
    check_trusted(derive(check("train", composed), {"launcher": None}), loggers=True)


def targets(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """The key and the value of each `_target_`."""
    for path, value in _values(OmegaConf.to_container(cfg, resolve=False)):
        if path and path[-1] == "_target_" and isinstance(value, str):
            yield _key(path), value


def _values(node: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Each value with the keys and list indices that lead to it, a mapping before its values."""
    yield path, node
    inner = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from _values(value, (*path, str(key)))


def _key(path: Keys) -> str:
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path).removeprefix(".")


def _check_node(path: Keys, node: Mapping[str, Any], folder: Path | None, loggers: bool) -> None:
    """Check a mapping that may build an object."""
    special = {key: value for key, value in node.items() if isinstance(key, str) and SPECIAL.fullmatch(key)}
    target = special.pop("_target_", None)
    if target is None and not special:
        return
    name, slot = _key((*path, "_target_")), find_slot(path)
    if slot is None or not isinstance(target, str):
        raise UserError(f"the run's config names {name}={target}, which is outside the places for classes; {ADVICE}")
    try:
        allowed = slot.allows(target)
    except UnknownName:
        raise UnknownTarget(name, target) from None
    if not allowed:
        if target.split(".")[0] == PACKAGE and not is_in_package(target):
            raise UnknownTarget(name, target)
        raise UserError(
            f"the run's config names {name}={target}, which is outside what belongs there ({slot.expected}); {ADVICE}"
        )
    for key, value in special.items():
        if slot.reads or value not in SWITCHES.get(key, ()) or (key != "_convert_" and not isinstance(value, bool)):
            raise UserError(f"the run's config has {_key((*path, key))}={value}, which is no plain value; {ADVICE}")
    if not slot.reads and (loggers or path[0] != "logger"):
        _check_places(path, node, folder)
    for key in DESTINATIONS if path[0] == "logger" and loggers else ():
        if key in node and not _is_own((*path, key), node[key]):
            raise UserError(
                f"the run's config has {_key((*path, key))}={node[key]}, which decides what is sent to whom; {ADVICE}"
            )


def _check_places(path: Keys, value: Any, folder: Path | None) -> None:
    """Refuse a path or an address outside the run, in any depth of `value`."""
    for inner, text in _values(value, path):
        if isinstance(text, str) and text and _leads_outside(inner, text, folder) and not _is_own(inner, text):
            raise UserError(f"the run's config has {_key(inner)}={text}, which leads outside the run; {ADVICE}")


def _leads_outside(path: Keys, text: str, folder: Path | None) -> bool:
    if "://" in text:
        return True
    has_folders = re.search(r"[/\\]", text)
    is_path = re.match(r"[/~\\]|[A-Za-z]:\\", text) or ".." in re.split(r"[/\\]", text)
    names = [part for part in path[1:] if PLACE.search(part)]
    is_file_name = not has_folders and all(name in ("filename", "file_name") for name in names)
    if not is_path and (not names or is_file_name):
        return False
    return folder is None or not text.startswith("/") or not Path(text).resolve().is_relative_to(folder.resolve())


def check_address(folder: Path) -> None:
    """Refuse the address that an MLflow logger remembers in a run from elsewhere.

    It is that of `configs/logger/mlflow.yaml`, or a database in a folder above the run.

    Raises:
        UserError: it is another one.
    """
    file = folder / "loggers" / "mlflow.json"
    address = str(read_json(file).get("tracking_uri", "")) if file.is_file() else ""
    prefix, separator, database = address.partition(SQLITE)
    is_near = bool(separator) and not prefix and Path(database).is_file() and Path(database).parent in folder.parents
    if address and not is_near and not _is_own(("logger", "mlflow", "tracking_uri"), address):
        raise UserError(f"{file} has tracking_uri={address}, which leads outside the run; {ADVICE}")


def _is_own(path: Keys, text: Any) -> bool:
    """Whether the configs of this project themselves give a logger this address, such as that of a local database."""
    if path[0] != "logger" or not re.fullmatch(r"\w+", path[1]):
        return False
    try:
        composed = train_config([f"logger={path[1]}", "name=x"])
    except HydraException:  # no such option
        return False
    address = OmegaConf.select(composed, _key(path))
    if isinstance(address, str) and address.startswith(SQLITE) and isinstance(text, str):  # a logger resolves the path
        return text in (address, f"{SQLITE}{Path(address.removeprefix(SQLITE)).expanduser().resolve()}")
    return address == text
