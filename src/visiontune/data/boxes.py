"""Boxes as annotation files have them: checked against the image they are in, and kept until they are needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from visiontune.data.targets import objects
from visiontune.errors import UserError, listed, some

POLICIES = ("error", "clip", "drop")
# Tools count pixels from 0 or from 1, and round: what sticks out no further than this is cut off, and counted.
ROUNDING = 1.0
FUZZ = 0.01


@dataclass(frozen=True, eq=False)
class StoredBoxes:
    """A detection target that is made when it is needed.

    Attributes:
        boxes: ``(N, 4)`` float32 x1, y1, x2, y2 in pixels of an image of `size` (H, W).
        labels: one a box.
        crowd: which boxes stand for many, or are not to be counted.
        area: of each object in pixels, where the file gives one (0 where not): COCO's classes of size go by it.
    """

    boxes: np.ndarray
    labels: list[int]
    crowd: list[bool]
    size: tuple[int, int]
    area: list[float] | None = None

    def load(self, size: tuple[int, int]) -> dict[str, Tensor]:
        if size != self.size:
            raise UserError(f"boxes of an image of {self.size[1]}x{self.size[0]} pixels; it has {size[1]}x{size[0]}")
        return objects(self.boxes.tolist(), self.labels, size, crowd=self.crowd, area=self.area)


class BoxCheck:
    """Looks at every box of a data set, and gathers what is wrong with them.

    Args:
        policy: what becomes of a box that leaves its image by more than a pixel, has no area or is not made of
            numbers. `error`: the set is refused. `clip`: it is cut at the image's edge, and left out where nothing
            remains. `drop`: it is left out.
    """

    def __init__(self, policy: str) -> None:
        if policy not in POLICIES:
            raise UserError(f"data.on_bad_box={policy}: write one of {', '.join(POLICIES)}")
        self.policy = policy
        self.total = self.rounded = self.clipped = 0
        self.bad: list[str] = []
        self._dropped: list[str] = []

    def __call__(
        self, boxes: Sequence[Sequence[float]], size: tuple[int, int], where: Callable[[int], str]
    ) -> tuple[np.ndarray, list[int]]:
        """The good boxes of an image of `size` (H, W), and their places in what was given.

        Args:
            boxes: x1, y1, x2, y2 in pixels.
            where: file and line, or id, of a box.
        """
        given = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        self.total += len(given)
        cut = np.clip(given, 0, np.array([size[1], size[0], size[1], size[0]], dtype=np.float64))
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(given.sum(axis=1))
            flat = (given[:, 2:] - given[:, :2]).min(axis=1) <= 0
            gone = (cut[:, 2:] - cut[:, :2]).min(axis=1) <= 0
            beyond = np.abs(given - cut).max(axis=1)
        good = finite & ~flat & ~gone & (beyond <= ROUNDING)
        self.rounded += int((good & (beyond > FUZZ)).sum())
        for i in np.flatnonzero(~good).tolist():
            what = "is not made of numbers"
            if finite[i]:
                what = "has no area" if flat[i] else f"leaves its image of {size[1]}x{size[0]} pixels"
            numbers = ", ".join(f"{value:.6g}" for value in given[i])
            good[i] = self.policy == "clip" and finite[i] and not gone[i]
            self.clipped += int(good[i])
            self._note(f"{where(i)}: box {numbers} {what}", dropped=not good[i])
        return cut[good].astype(np.float32), np.flatnonzero(good).tolist()

    def refuse(self, line: str) -> None:
        """Note an object that is bad in another way than its box."""
        self.total += 1
        self._note(line, dropped=True)

    def _note(self, line: str, dropped: bool) -> None:
        self.bad.append(line)
        if dropped:
            self._dropped.append(line.split(": ")[0])

    def notes(self) -> list[str]:
        """What was changed or left out, in words.

        Raises:
            UserError: something is bad and the policy is `error`; lists the first ten.
        """
        if self.bad and self.policy == "error":
            raise UserError(
                f"{len(self.bad)} of {self.total} boxes cannot be used. Repair them, or write data.on_bad_box=drop "
                f"(leave them out) or data.on_bad_box=clip (cut them at their image's edge):{listed(self.bad)}"
            )
        said = f"(data.on_bad_box={self.policy})"
        notes = []
        if self.clipped:
            notes.append(f"{self.clipped} boxes that leave their image are cut at its edge {said}")
        if self._dropped:
            notes.append(f"{len(self._dropped)} bad boxes are left out {said}: {some(self._dropped)}")
        if self.rounded:
            notes.append(f"{self.rounded} boxes reach up to a pixel beyond their image and are cut at its edge")
        return notes
