"""Boxes from annotation files: checked against their image, and stored until they are loaded."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from visiontune.data.targets import objects
from visiontune.errors import UserError, listed, pluralize, some

POLICIES = ("error", "clip", "drop")
# Annotation tools count pixels from 0 or from 1, and round: boxes may leave their image by this many pixels.
ROUNDING = 1.0
FUZZ = 0.01  # pixels; smaller differences are not reported


@dataclass(frozen=True, eq=False)
class StoredBoxes:
    """A detection target whose tensors are built on demand.

    Attributes:
        boxes: ``(N, 4)`` float32 x1, y1, x2, y2 in pixels of an image of `size` (H, W).
        labels: one per box.
        crowd: which boxes cover many objects, or are ignored by metrics.
        area: of each object in pixels, 0 where the file has none. COCO's small, medium and large depend on it.
    """

    boxes: np.ndarray
    labels: list[int]
    crowd: list[bool]
    size: tuple[int, int]
    area: list[float] | None = None

    def load(self, size: tuple[int, int]) -> dict[str, Tensor]:
        if size != self.size:
            raise UserError(
                f"expected an image of {self.size[1]}x{self.size[0]} pixels for its boxes, got {size[1]}x{size[0]}"
            )
        return objects(self.boxes.tolist(), self.labels, size, crowd=self.crowd, area=self.area)


class BoxCheck:
    """Checks every box of a data set, and collects the bad ones.

    A box is bad if it leaves its image by more than a pixel, has no area or is not made of finite numbers.

    Args:
        policy: what happens to bad boxes. `error`: `notes` raises an error. `clip`: they are clipped to the image, and
            left out if nothing remains. `drop`: they are left out.
    """

    def __init__(self, policy: str) -> None:
        if policy not in POLICIES:
            raise UserError(f"data.on_bad_box={policy}: write one of {', '.join(POLICIES)}")
        self.policy = policy
        self.total = self.rounded = self.clipped = 0
        self._largest = 0.0  # coordinate of a box
        self._first = ""  # location of a box
        self.bad: list[str] = []
        self._dropped: list[str] = []
        self._repeated: list[str] = []

    def __call__(
        self, boxes: Sequence[Sequence[float]], size: tuple[int, int], where: Callable[[int], str]
    ) -> tuple[np.ndarray, list[int]]:
        """The boxes to keep of an image of `size` (H, W), clipped to it, and their indices in `boxes`.

        Args:
            boxes: x1, y1, x2, y2 in pixels.
            where: index of a box -> its file and line, or id.
        """
        coordinates = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        self.total += len(coordinates)
        clipped = np.clip(coordinates, 0, np.array([size[1], size[0], size[1], size[0]], dtype=np.float64))
        with np.errstate(invalid="ignore", over="ignore"):
            finite = np.isfinite(coordinates.sum(axis=1))
            empty = (coordinates[:, 2:] - coordinates[:, :2]).min(axis=1) <= 0
            outside = (clipped[:, 2:] - clipped[:, :2]).min(axis=1) <= 0
            beyond = np.abs(coordinates - clipped).max(axis=1)
        self._largest = float(np.abs(coordinates[finite]).max(initial=self._largest))
        self._first = self._first or (where(0) if len(coordinates) else "")
        valid = finite & ~empty & ~outside & (beyond <= ROUNDING)
        self.rounded += int((valid & (beyond > FUZZ)).sum())
        for i in np.flatnonzero(~valid).tolist():
            what = "is not made of numbers"
            if finite[i]:
                what = "has no area" if empty[i] else f"leaves its image of {size[1]}x{size[0]} pixels"
            numbers = ", ".join(f"{value:.6g}" for value in coordinates[i])
            valid[i] = self.policy == "clip" and finite[i] and not outside[i]
            self.clipped += int(valid[i])
            self._note(f"{where(i)}: box {numbers} {what}", dropped=not valid[i])
        return clipped[valid].astype(np.float32), np.flatnonzero(valid).tolist()

    def refuse(self, problem: str) -> None:
        """Record an object that is bad for another reason than its box."""
        self.total += 1
        self._note(problem, dropped=True)

    def compare(self, objects: Sequence[Hashable], where: Callable[[int], str]) -> None:
        """Record the objects of an image that equal an earlier one: the same box and class."""
        earlier: set[Hashable] = set()
        for i, item in enumerate(objects):
            self._repeated += [where(i)] if item in earlier else []
            earlier.add(item)

    def _note(self, line: str, dropped: bool) -> None:
        self.bad.append(line)
        if dropped:
            self._dropped.append(line.split(": ")[0])

    def notes(self) -> list[str]:
        """Messages about what was changed or left out.

        Raises:
            UserError: there are bad objects and the policy is `error`, of which it lists the first ten; or all boxes
                are within the first pixel.
        """
        if 0 < self._largest <= 1:
            raise UserError(
                f"all boxes are within the first pixel of their image, such as {self._first}: if they are fractions, "
                "multiply them by the width and height of the image"
            )
        if self.bad and self.policy == "error":
            raise UserError(
                f"{len(self.bad)} of {self.total} boxes cannot be used. Repair them, or write data.on_bad_box=drop "
                f"(leave them out) or data.on_bad_box=clip (cut them at their image's edge):{listed(self.bad)}"
            )
        reason = f"(data.on_bad_box={self.policy})"
        notes = []
        if self.clipped:
            count = pluralize(self.clipped, "box that leaves its image is", "boxes that leave their image are")
            notes.append(f"{count} cut at its edge {reason}")
        if self._dropped:
            count = pluralize(len(self._dropped), "bad box is", "bad boxes are")
            notes.append(f"{count} left out {reason}: {some(self._dropped)}")
        if self.rounded:
            count = pluralize(self.rounded, "box reaches", "boxes reach")
            notes.append(f"{count} up to a pixel beyond the image: cut at its edge")
        if self._repeated:
            count = pluralize(len(self._repeated), "object has", "objects have")
            notes.append(
                f"{count} the box and class of another object of the same image. All are used; remove them "
                f"if they are mistakes: {some(self._repeated)}"
            )
        return notes
