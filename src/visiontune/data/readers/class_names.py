"""Names of classes that the user lists."""

from collections.abc import Sequence
from typing import Any

from visiontune.data.text import normalized
from visiontune.errors import UserError


def class_names(classes: Sequence[Any], key: str = "data.classes") -> list[str]:
    """The names as text: 0 is `0`, True is `true`, and two Unicode forms of a name are the same name.

    Args:
        key: where they are listed, for messages.

    Raises:
        UserError: a name is empty, or two classes have the same name.
    """
    names = [normalized(str(name).lower() if isinstance(name, bool) else str(name)).strip() for name in classes]
    if not all(names):
        raise UserError(f"{key}={list(classes)}: a name is empty. Write e.g. {key}=[cat,dog]")
    if len(set(names)) < len(names):
        raise UserError(f"{key}={list(classes)}: two classes have the same name")
    return names
