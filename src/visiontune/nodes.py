"""Find and build what the nodes of a config name: mappings with a `_target_`.

A wrong name or argument is one message with the key, what was expected, and similar names.
"""

import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from visiontune.errors import UserError, first_line, some

LIBRARIES = ("visiontune", "torch", "torchvision", "lightning", "torchmetrics", "timm")
SPECIAL = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
Bases = type | tuple[type, ...]

# Hydra 1.4 deprecates `instantiate` without a list of the targets that a config may name. It would need the class of
# every callable object that a function returns. This module and `training/trusted.py` check the targets instead.
UNCHECKED = getattr(hydra.utils, "UNSAFE_DISABLE_EXECUTION_CHECKS", None)  # None below Hydra 1.4
WHITELIST = {} if UNCHECKED is None else {"_execution_whitelist_": UNCHECKED}


def build(
    node: Any, key: str, expected: str, bases: Bases = object, partial: bool = False, only_classes: bool = False
) -> Any:
    """Call the `_target_` of a node with plain lists and dictionaries as arguments.

    Args:
        key: of the node in the config, for messages.
        expected: what belongs there and an example, in words that follow "expected".
        bases: a class that the node names is a subclass of one of these; a function may return anything.
        partial: return a partial of the class or function, for further arguments, whatever the node says.
        only_classes: functions are refused.

    Raises:
        UserError: a name in the node does not exist, is of another kind or does not accept an argument; or the call
            raises an error.
    """
    plain: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    if not isinstance(plain, Mapping):
        raise UserError(f"{key}={plain}: expected {expected}, as a mapping with _target_")
    plain = {**plain, "_partial_": True} if partial else plain
    value = check(plain, key, expected, bases)
    if only_classes and not isinstance(value, type):
        raise UserError(f"{key}._target_={plain['_target_']}: expected {expected}, got {_kind(value)}")
    with wrong_arguments(key, plain["_target_"]):
        return hydra.utils.instantiate(plain, _convert_="all", **WHITELIST)


def check(node: Mapping[Any, Any], key: str, expected: str, bases: Bases = object) -> Any:
    """Check the names and arguments of a node and of all nodes in it; return what its `_target_` names.

    Raises:
        UserError: as `build`, apart from the errors of the call.
    """
    value = find(node.get("_target_"), key, expected, bases)
    check_arguments(value, node, key)
    for place, inner in _inner_nodes(node, key):
        check_arguments(find(inner["_target_"], place, "a class or function"), inner, place)
    return value


def find(target: Any, key: str, expected: str, bases: Bases = object) -> Any:
    """Import what a `_target_` names.

    Args:
        key: of the node, for messages.
        expected: as in `build`.
        bases: as in `build`.

    Raises:
        UserError: it does not exist, cannot be imported, or is of another kind.
    """
    where = f"{key}._target_={target}"
    names = target.split(".") if isinstance(target, str) else []
    if not names or not all(name.isidentifier() for name in names):
        raise UserError(f"{where}: expected {expected}")
    value: Any = None
    for number, name in enumerate(names):
        path = ".".join(names[: number + 1])
        try:
            value = getattr(value, name) if hasattr(value, name) else _import(value, path)
        except ModuleNotFoundError as error:
            if error.name == path:
                raise UserError(f"{where}: {_advice(value, names, number, bases)}; expected {expected}") from None
            raise UserError(f"{where}: importing {path} fails: {first_line(error)}") from error
        except Exception as error:  # the import runs the user's code
            raise UserError(f"{where}: importing {path} raises {type(error).__name__}: {first_line(error)}") from error
    if not callable(value) or (isinstance(value, type) and not issubclass(value, bases)):
        raise UserError(f"{where}: expected {expected}, got {_kind(value)}")
    return value


def check_arguments(value: Any, node: Mapping[Any, Any], key: str) -> None:
    """Check that a class or function accepts the keys of a node as arguments; missing ones may be added later.

    Raises:
        UserError: it has no argument of that name.
    """
    try:
        parameters = inspect.signature(value).parameters
    except (TypeError, ValueError):  # of some built-in functions
        return
    kinds = [parameter.kind for parameter in parameters.values()]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return
    names = [name for name, kind in zip(parameters, kinds, strict=True) if kind != inspect.Parameter.VAR_POSITIONAL]
    for name in node:
        if name not in SPECIAL and name not in names:
            near = [f"{key}.{match}" for match in get_close_matches(str(name), names, cutoff=0.5)]
            advice = f"near it: {', '.join(near)}" if near else f"its arguments: {some(names, 20) or 'none'}"
            raise UserError(f"{key}.{name}: {node['_target_']} has no argument {name}; {advice}")


@contextmanager
def wrong_arguments(key: str, target: str | None = None) -> Iterator[None]:
    """Turn an error of a constructor into a UserError that names the config key and the class."""
    try:
        yield
    except Exception as error:  # torch and Lightning raise many types for wrong arguments
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        reason = f"{target} raises {type(cause).__name__}: " if target else ""
        raise UserError(f"{key}: {reason}{first_line(cause)}") from error


def _import(parent: Any, path: str) -> ModuleType:
    if parent is not None and not isinstance(parent, ModuleType):
        raise ModuleNotFoundError(name=path)
    return import_module(path)


def _advice(parent: Any, names: list[str], number: int, bases: Bases) -> str:
    """What does not exist, and similar names that do."""
    name = names[number]
    if parent is None:
        near = get_close_matches(name, LIBRARIES, cutoff=0.5)
        missing = f"there is no module {name} in the current directory or in the Python environment"
    else:
        members = _members(parent, bases if number == len(names) - 1 else object)
        near = get_close_matches(name, members, 5, cutoff=0.5) or (members if len(members) < 30 else [])
        missing = f"{'.'.join(names[:number])} has no {name}"
    return f"{missing}; near it: {some(near, 8)}" if near else missing


def _members(parent: Any, bases: Bases) -> list[str]:
    """The public names in a module or class that may stand there."""
    members = [name for name in dir(parent) if not name.startswith("_")]
    if bases is object:
        modules = pkgutil.iter_modules(getattr(parent, "__path__", None) or [])
        return sorted({*members, *(module.name for module in modules)})
    fitting = []
    for name in members:
        with suppress(Exception):  # a name that is imported when it is read
            value = getattr(parent, name)
            if isinstance(value, type) and issubclass(value, bases):
                fitting.append(name)
    return fitting


def _kind(value: Any) -> str:
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    return f"the class {value.__name__}" if isinstance(value, type) else f"a value of type {type(value).__name__}"


def _inner_nodes(value: Any, place: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The nodes in the arguments of a node, with their keys."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        name = f"{place}.{key}"
        if isinstance(inner, Mapping) and "_target_" in inner:
            yield name, inner
        yield from _inner_nodes(inner, name)
