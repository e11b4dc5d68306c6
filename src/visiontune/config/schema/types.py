"""Types of config values, and `key`, which gives a key a description of its range and an example."""

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from visiontune.config.split import read_pairs


def _to_int(value: Any) -> Any:
    """Convert whole floats such as 10.0 and 1e1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _to_text(value: Any) -> Any:
    """Convert numbers, since text may look like one. Not booleans: YAML reads the names on, yes and true alike."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _to_name(value: Any) -> Any:
    """Convert whole numbers only: YAML reads the name 1.10 as 1.1."""
    return value if isinstance(value, float) else _to_text(value)


def _read_names(value: Any) -> Any:
    """Read a mapping on the command line, whose names have any characters, which Hydra's grammar does not allow."""
    pairs = read_pairs(value) if isinstance(value, str) else None
    return value if pairs is None else pairs


class Section(BaseModel):
    """Keys of one mapping; keys that are not listed are allowed, since constructors and users add their own."""

    model_config = ConfigDict(extra="allow")


Flag = StrictBool
Text = Annotated[StrictStr, BeforeValidator(_to_text)]
NonEmpty = Annotated[Text, Field(pattern=r"\S")]
Texts = list[Annotated[StrictStr, BeforeValidator(_to_name)]]
Int = Annotated[StrictInt, BeforeValidator(_to_int)]
Count = Annotated[Int, Ge(1)]
Float = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Number = StrictInt | Float
Positive = Annotated[StrictInt, Gt(0)] | Annotated[Float, Gt(0)]
NotNegative = Annotated[StrictInt, Ge(0)] | Annotated[Float, Ge(0)]
Fraction = Annotated[StrictInt, Ge(0), Le(1)] | Annotated[Float, Ge(0), Le(1)]
PositiveFraction = Annotated[StrictInt, Gt(0), Le(1)] | Annotated[Float, Gt(0), Le(1)]
Range = Annotated[list[Number], Field(min_length=2, max_length=2)]
Epochs = Annotated[Int, Ge(1), Le(1_000_000)]  # the plan goes through all of them
Side = Annotated[Int, Ge(1), Le(16_384)]  # an image of this height and width has 3 GB
Size = Side | Annotated[list[Side], Field(min_length=2, max_length=2)]
# `yes` and `1` are names as well.
Name = Annotated[str, BeforeValidator(lambda value: str(value).lower() if isinstance(value, bool) else str(value))]
Names = Annotated[dict[Name, Name | None] | None, BeforeValidator(_read_names)]
PathOrSplits = Text | Mapping[str, Text]


def key(expected: str, example: Any) -> Any:
    """A key of a section.

    Args:
        expected: the valid values, in words that follow "expected".
        example: a valid value.
    """
    return Field(default=None, description=expected, examples=[example])


class Node(Section):
    """A mapping that builds an object: `_target_` names the class or function, the rest are its arguments."""

    target: Text = Field(alias="_target_", description="the path of a class", examples=["torch.optim.AdamW"])
