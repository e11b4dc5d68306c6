"""The values of a key over many runs: numbers or categories."""

import math
from dataclasses import dataclass

LOG_SPAN = 100  # numbers that span more are compared by their logarithm, as learning rates are


@dataclass(frozen=True)
class Axis:
    """The values of one key.

    Attributes:
        values: of each run: a number, None if the run has none, or the position of its category in `categories`.
        categories: empty for numbers.
        log: whether the numbers span so much that their logarithm is compared.
    """

    key: str
    values: list[float | None]
    categories: list[str]
    log: bool = False

    @property
    def is_complete(self) -> bool:
        return None not in self.values

    @property
    def varies(self) -> bool:
        return len(set(self.values)) > 1


def build_axis(key: str, texts: list[str]) -> Axis:
    """The axis of a key, from its value in each run as text; numbers if all that are not empty are finite numbers."""
    numbers = [_number(text) for text in texts]
    if any(number is None and text for number, text in zip(numbers, texts, strict=True)) or not any(texts):
        categories = sorted(set(texts))
        return Axis(key, [float(categories.index(text)) for text in texts], categories)
    present = [number for number in numbers if number is not None]
    return Axis(key, numbers, [], log=min(present) > 0 and max(present) / min(present) > LOG_SPAN)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
