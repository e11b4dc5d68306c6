"""Build objects of classes that are named in a user's config."""

from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate

from visiontune.errors import UserError


def build_object(node: Mapping[str, Any], name: str, fits: Callable[[type], bool], expected: str) -> Any:
    """Import `_target_` and call it with the other keys of `node`.

    Args:
        name: the key of `node` in the config.
        fits: whether a class is allowed; other classes are not called.
        expected: description of the allowed classes for the error message.

    Raises:
        UserError: the class cannot be imported or built, or is not allowed.
    """
    target = node["_target_"]
    try:
        cls = get_object(target)
    except Exception as error:  # the import runs the user's code
        raise UserError(
            f"{name}._target_={target}: cannot be imported ({error}). Modules are found in the current directory and "
            "in the Python environment"
        ) from error
    if not isinstance(cls, type) or not fits(cls):
        raise UserError(f"{name}._target_={target}: expected {expected}")
    try:
        return instantiate(dict(node), _convert_="all")
    except HydraException as error:
        cause = error.__cause__ or error
        first_line = str(cause).split("\n")[0]
        raise UserError(f"{name}: {target} raises {type(cause).__name__}: {first_line}") from error
