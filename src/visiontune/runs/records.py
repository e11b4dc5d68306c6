"""The records of a run in JSON, checked for their types."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visiontune.errors import UserError
from visiontune.runs.reading import read_json

MAX_OVERRIDES, MAX_TEXT = 1000, 10_000
Model = TypeVar("Model", bound=BaseModel)
Name = Annotated[str, Field(max_length=300)]


class Objective(BaseModel):
    """The monitored metric of the best checkpoint, and the number of epochs after which it was written."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: Name
    mode: Literal["max", "min"]
    value: float
    epoch: int


class Status(BaseModel):
    """The types in status.json; other keys may follow."""

    model_config = ConfigDict(extra="allow", strict=True)

    status: Name
    started: float = 0.0
    updated: float = 0.0
    pid: int = 0
    trained_parameters: int = 0
    parameters: int = 0
    peak_memory_mb: float = 0.0
    objective: Objective | None = None


def read_status(path: Path) -> dict[str, Any]:
    """Read status.json.

    Raises:
        UserError: it cannot be read, or a value has the wrong type.
    """
    content = read_json(path)
    validate(path, content, Status)
    return content


def validate(path: Path, content: Any, model: type[Model]) -> Model:
    """The content of the file `path` as a model.

    Raises:
        UserError: a value has the wrong type, or is missing.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def read_overrides(path: Path) -> list[str]:
    """The overrides in environment.json.

    Raises:
        UserError: they are no list of texts.
    """
    overrides = read_json(path).get("overrides", [])
    if not (isinstance(overrides, list) and all(isinstance(override, str) for override in overrides)):
        raise UserError(f"{path}: expected overrides as a list of texts")
    if len(overrides) > MAX_OVERRIDES or any(len(override) > MAX_TEXT for override in overrides):
        raise UserError(f"{path}: expected at most {MAX_OVERRIDES} overrides of {MAX_TEXT} characters")
    return overrides


def read_metrics(path: Path) -> dict[str, float]:
    """The metrics in metrics.json.

    Raises:
        UserError: one of them is not a number.
    """
    metrics = read_json(path)
    if wrong := [name for name, value in metrics.items() if not _is_number(value)]:
        raise UserError(f"{path}: expected a number for {wrong[0]}")
    return metrics


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold; JSON has integers of any length."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1e300)
