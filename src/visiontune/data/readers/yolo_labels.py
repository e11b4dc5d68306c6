"""The lines of YOLO label files: boxes, polygons, or boxes with keypoints.

| numbers after the class | meaning |
| --- | --- |
| 4 | x, y, width, height of a box; x, y is its center |
| 4 + N x D with `kpt_shape: [N, D]` | a box and keypoints, which are left out |
| 8 | four corners of a rotated box or a polygon |
| 6, 10, 12, ... | a polygon x, y, x, y, ... |

Other lines, such as predictions with a confidence, are not labels.
"""

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from visiontune.data.boxes import BoxCheck
from visiontune.data.polygons import Objects, meets, polygon
from visiontune.errors import UserError, some

FORMATS = ("auto", "polygon", "keypoints")
TOLERANCE = 0.01  # fraction of the image by which a box may leave it
LARGEST_SIDE = 100_000  # of an image, in pixels


class LabelLines:
    """Parses the lines of all label files of a data set.

    Args:
        names: class id -> name.
        keypoints: `kpt_shape` of the YAML file.
        label_format: what a line with more than four numbers is: `polygon`, `keypoints` (a box and keypoints), or
            `auto`: keypoints if the YAML file has `kpt_shape`, else a polygon.
    """

    def __init__(self, names: Mapping[int, str], keypoints: tuple[int, int] | None, label_format: str = "auto") -> None:
        if label_format not in FORMATS:
            raise UserError(f"data.label_format={label_format}: write one of {', '.join(FORMATS)}")
        self.names = names
        self.keypoints = keypoints
        self.label_format = label_format
        self._with_keypoints = self._boxes = 0
        self._polygons: Counter[int] = Counter()  # numbers of a polygon -> polygons
        self._first_polygon = ""
        self._like_keypoints = True  # whether each polygon may be a box with keypoints
        self._scale = math.inf  # the smallest of the largest numbers of each label
        self._first_label = ""

    def parse(self, line: str, location: str) -> tuple[str, list[float]] | None:
        """The class name and the numbers of a line; None if it is empty.

        Raises:
            UserError: it is not made of numbers, or its class is unknown.
        """
        fields = line.split() if "," not in line else [field.strip() for field in line.rstrip(", \t").split(",")]
        if not fields or fields == [""]:
            return None
        try:
            identity, values = float(fields[0]), [float(word) for word in fields[1:]]
        except ValueError:
            raise UserError(f"{location}: {line.strip()[:60]!r} is not a label: write CLASS X Y WIDTH HEIGHT") from None
        if identity not in self.names:
            known = some([str(class_id) for class_id in self.names], 12)
            raise UserError(f"{location}: unknown class {fields[0]:.40}, the ids of names are {known}")
        self._scale = min(self._scale, max(values[:4], default=0.0))
        self._first_label = self._first_label or location
        return self.names[int(identity)], values

    def add(
        self, label: int, values: list[float], size: tuple[int, int], objects: Objects, check: BoxCheck, location: str
    ) -> bool:
        """Add an object, with coordinates in pixels of an image of `size` (H, W). False if `check` has refused it."""
        height, width = size
        try:
            if len(values) == 4 or self._has_keypoints(values):
                self._with_keypoints += len(values) > 4
                self._boxes += len(values) == 4
                x, y, w, h = values[:4]
                box = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
                objects.add(box, label)
                return True
            points = self._polygon(values, location)
            with np.errstate(over="ignore"):
                points[0::2] *= width
                points[1::2] *= height
            xs, ys = points[0::2], points[1::2]
            box = [xs.min(), ys.min(), xs.max(), ys.max()]
            if not meets([points], box, size):
                raise ValueError("its polygon is far outside its image")
        except ValueError as error:
            check.refuse(f"{location}: {error}")
            return False
        objects.add(box, label, segment=[points])
        return True

    def notes(self, file: str) -> list[str]:
        """Messages about lines that are more than a box.

        Raises:
            UserError: all labels are in pixels, or all polygons may be keypoints, so that their boxes would be wrong.
        """
        if 2 < self._scale < LARGEST_SIDE:
            raise UserError(
                f"{self._first_label}: the numbers of all labels are larger than 1. If they are pixels, divide them by "
                "the width and height of the image"
            )
        notes = []
        if self._with_keypoints:
            notes.append(f"{self._with_keypoints} labels have keypoints: their boxes are used, their keypoints are not")
        if len(self._polygons) != 1 or self._boxes or self.label_format != "auto":
            return notes
        ((numbers, count),) = self._polygons.items()
        remedy = f"write kpt_shape: [{(numbers - 4) // 2}, 2] in {file}, or data.label_format=keypoints"
        if self._like_keypoints and numbers != 8:
            raise UserError(
                f"{self._first_polygon}: {numbers} numbers after the class are either a polygon or a box with "
                f"keypoints, and all {count} such labels may be both. If they are keypoints, {remedy}. If they are "
                f"polygons, write data.label_format=polygon"
            )
        notes.append(
            f"{count} labels are read as polygons of {numbers // 2} points. If they are boxes with keypoints, {remedy}"
        )
        return notes

    def _has_keypoints(self, values: list[float]) -> bool:
        """Whether the numbers are a box with keypoints. Raises ValueError if they do not fit `kpt_shape`."""
        if self.label_format == "keypoints":
            return len(values) > 4
        if self.keypoints is None or self.label_format == "polygon":
            return False
        count, dims = self.keypoints
        if len(values) != 4 + count * dims:
            raise ValueError(
                f"it has {len(values)} numbers after its class; kpt_shape: [{count}, {dims}] needs {4 + count * dims}"
            )
        return True

    def _polygon(self, values: list[float], location: str) -> np.ndarray:
        if len(values) == 5:
            raise ValueError(
                "its polygon has 5 numbers; three points or more are x, y, x, y, x, y, ..., and a box has 4 numbers "
                "without confidence or angle"
            )
        try:
            points = polygon(values)
        except ValueError as error:
            hint = "; if they are a box and keypoints, write kpt_shape in the YAML file" if len(values) > 6 else ""
            raise ValueError(f"{error}{hint}") from error
        self._first_polygon = self._first_polygon or location
        self._polygons[len(points)] += 1
        self._like_keypoints = self._like_keypoints and _may_have_keypoints(points)
        return points


def _may_have_keypoints(values: np.ndarray) -> bool:
    """Whether the numbers may be a box within the image and keypoints; a single keypoint must be in the box."""
    center, sides, points = values[:2], values[2:4], values[4:].reshape(-1, 2)
    low, high = center - sides / 2, center + sides / 2
    if low.min() < -TOLERANCE or high.max() > 1 + TOLERANCE or sides.min() <= 0:
        return False
    return len(points) > 1 or bool((points >= low).all() and (points <= high).all())
