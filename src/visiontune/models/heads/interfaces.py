"""Check that heads implement an interface: `Describable`, `Exportable`, `Distillable` or `Probeable`."""

from collections.abc import Mapping
from typing import Any, TypeVar

from visiontune.errors import UserError
from visiontune.models.heads.base import Head

T = TypeVar("T")


def require(heads: Mapping[str, Head], interface: type[T], purpose: str) -> Mapping[str, T]:
    """The same heads, for code that needs an interface.

    Raises:
        UserError: a head does not implement it.
    """
    for task, head in heads.items():
        if not isinstance(head, interface):
            methods: Any = getattr(interface, "__abstractmethods__", ())
            raise UserError(
                f"{purpose}: the head of {task}, {type(head).__name__}, is not {interface.__name__}; derive it from "
                f"visiontune.models.heads.{interface.__name__} and add {', '.join(sorted(methods))}"
            )
    return heads  # type: ignore[return-value]
