"""Notes on images that are read in part: one page of several, some of many grey values."""

from collections.abc import Mapping, Sequence
from typing import Any

from visiontune.data.images import ImageDecoder
from visiontune.data.pixels import FULL_RANGE
from visiontune.errors import pluralize, some


class ImageNotes:
    """Collects what `describe_image` says about the images of a data set.

    Attributes:
        decoder: reads the images.
    """

    def __init__(self, decoder: ImageDecoder | None = None) -> None:
        self.decoder = decoder or ImageDecoder()
        self.several: list[str] = []
        self.deep_color: list[str] = []
        self.deep: dict[str, Sequence[float]] = {}  # path -> smallest and largest value
        self.problems: dict[str, str] = {}  # path -> why an example cannot be decoded

    def record(self, descriptions: Mapping[str, Mapping[str, Any]]) -> None:
        """Record descriptions by path."""
        for path, description in descriptions.items():
            if description.get("several"):
                self.several.append(path)
            if description.get("deep_color"):
                self.deep_color.append(path)
            if values := description.get("values"):
                self.deep[path] = values

    def notes(self) -> list[str]:
        notes = []
        if self.problems:
            count = pluralize(len(self.problems), "image", "images")
            examples = some([f"{path} ({problem})" for path, problem in sorted(self.problems.items())])
            notes.append(
                f"{count} of the examples that are decoded cannot be read, and would end a training: {examples}. Write "
                "data.verify=full to find all such images"
            )
        if self.several:
            notes.append(
                f"{pluralize(len(self.several), 'image has', 'images have')} several pages or frames, of which the "
                f"first is used: {some(sorted(self.several))}"
            )
        if self.deep_color:
            notes.append(
                f"{pluralize(len(self.deep_color), 'image has', 'images have')} colors with 16 bits, of which the "
                f"upper 8 are used; save them with 8 bits if they become too dark: {some(sorted(self.deep_color))}"
            )
        if self.deep:
            low, high = min(low for low, _ in self.deep.values()), max(high for _, high in self.deep.values())
            key = (
                f"data.grey_range={_range(self.decoder.grey_range)} become black and white"
                if self.decoder.grey_range
                else f"0 and {FULL_RANGE[1]:.0f} become black and white; to change it, write "
                f"data.grey_range={_range((low, high if high > low else low + 1))}"
            )
            notes.append(
                f"{pluralize(len(self.deep), 'image is', 'images are')} grey with more than 8 bits, with values from "
                f"{low:g} to {high:g}; {key}: {some(sorted(self.deep))}"
            )
        return notes


def _range(values: Sequence[float]) -> str:
    return f"[{values[0]:g},{values[1]:g}]"
