"""The type of each key, from the schema."""

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from visiontune.config.check import VERBS
from visiontune.config.schema.types import Text

OPTION = Text | list[Text] | dict[str, Any]  # of a config group; a mapping sets keys of the option


def key_type(verb: str, key: str) -> Any:
    """The annotation of a key in the config of a verb; Any if the schema does not list the key."""
    annotation: Any = VERBS["train" if verb == "plan" else verb]
    for part in key.split("."):
        annotation = _field(annotation, part)
    return annotation


def is_key(verb: str, key: str) -> bool:
    """Whether the schema of a verb lists a key of its top level."""
    return _field(VERBS[verb], key) is not Any


def _field(annotation: Any, name: str) -> Any:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            for field, info in option.model_fields.items():
                if name == (info.alias or field):
                    return info.annotation
    return item_type(annotation, dict) or Any


def takes_text(annotation: Any) -> bool:
    """Whether any text is a valid value."""
    return str in _options(annotation)


def holds_text(annotation: Any) -> bool:
    """Whether values, or the items of lists and mappings, are text."""
    items = (item_type(annotation, list), item_type(annotation, dict))
    return takes_text(annotation) or any(item not in (None, Any) and holds_text(item) for item in items)


def takes_null(annotation: Any) -> bool:
    return types.NoneType in _options(annotation)


def item_type(annotation: Any, kind: type) -> Any:
    """The annotation of the items of a list or of a mapping's values; None if the value is no such container.

    Args:
        kind: list or dict.
    """
    for option in _options(annotation):
        origin = get_origin(option)
        is_section = isinstance(option, type) and issubclass(option, BaseModel)
        if option is Any or option is kind or (is_section and kind is dict):
            return Any
        if isinstance(origin, type) and issubclass(kind, origin):
            return get_args(option)[-1]
    return None


def _options(annotation: Any) -> list[Any]:
    """The alternatives of a union, without their constraints."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for part in get_args(annotation) for option in _options(part)]
    return _options(get_args(annotation)[0]) if get_origin(annotation) is Annotated else [annotation]
