"""Classes, schema and notes of samples with objects, shared by the readers of COCO, VOC and YOLO."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visiontune.data.images import ImageDecoder
from visiontune.data.readers.class_names import class_names
from visiontune.data.scan import read_image_sizes
from visiontune.data.schema import Sample, TaskInfo
from visiontune.errors import UserError, pluralize, some


class ClassSelection:
    """The classes that a run is trained on: all, or those of `data.include`. Other objects are background.

    Args:
        names: the classes of the data, in label order.
        include: None for all.

    Raises:
        UserError: a name is not a class of the data or occurs twice, or there is no name.
    """

    def __init__(self, names: Sequence[str], include: Sequence[str] | None = None) -> None:
        selected = None if include is None else class_names(include, "data.include")
        known = f"the classes are {some(list(names), 12)}; write e.g. data.include=[{names[0] if names else 'cat'}]"
        if selected is not None and not selected:
            raise UserError(f"data.include=[]: no class is left; {known}")
        if unknown := [name for name in selected or [] if name not in names]:
            raise UserError(f"data.include: unknown class {unknown[0]!r}; {known}")
        self.names = [name for name in names if selected is None or name in selected]
        self._labels = {name: label for label, name in enumerate(self.names)}
        self._left_out: Counter[str] = Counter()

    def label(self, name: str) -> int | None:
        """The label of an object of this class; None if it is left out, which is counted."""
        label = self._labels.get(name)
        if label is None:
            self._left_out[name] += 1
        return label

    def notes(self) -> list[str]:
        if not self._left_out:
            return []
        counts = [f"{count} {name}" for name, count in self._left_out.most_common()]
        return [f"{self._left_out.total()} objects of other classes are background (data.include): {some(counts)}"]


def object_tasks(samples: list[Sample], classes: list[str]) -> tuple[dict[str, TaskInfo], list[str]]:
    """The schema and notes. It has instances if any object has a segment; otherwise these targets are removed."""
    segmented = [sample for sample in samples if "instances" in sample.targets]
    schema = {"detection": TaskInfo("detection", classes)}
    if not any(sample.targets["instances"].labels for sample in segmented):
        for sample in segmented:
            del sample.targets["instances"]
        return schema, []
    schema["instances"] = TaskInfo("instances", classes)
    missing = len(samples) - len(segmented)
    count = pluralize(missing, "image has", "images have")
    note = f"{count} objects without polygon or mask, and so no instances target"
    return schema, [note] if missing else []


def size_notes(
    root: Path, annotated: Mapping[str, tuple[Any, Any]], sizes: Mapping[str, tuple[int, int]], orientation: str
) -> list[str]:
    """Notes on images whose size differs from the annotated (H, W); 0 or None means not annotated.

    Args:
        orientation: how `sizes` were read, see `data.orientation`.
    """
    mismatches = {path: size for path, size in annotated.items() if all(size) and size != sizes.get(path, size)}
    reversed_sizes = [path for path, size in mismatches.items() if size == sizes[path][::-1]]
    other = "ignore" if orientation == "apply" else "apply"
    other_sizes = read_image_sizes(root, reversed_sizes, ImageDecoder(orientation=other, max_pixels=None))
    turned = {path for path in reversed_sizes if other_sizes[path] == mismatches[path]}
    others = [path for path in mismatches if path not in turned]
    kinds = {
        f"{pluralize(len(turned), 'image is', 'images are')} annotated with the size of data.orientation={other}, "
        "which the boxes probably fit": sorted(turned),
        f"{pluralize(len(others), 'image has', 'images have')} another size than annotated; the size of the file is "
        "used": others,
    }
    return [
        f"{what}: {paths[0]} is {sizes[paths[0]][1]}x{sizes[paths[0]][0]}, annotated as "
        f"{mismatches[paths[0]][1]}x{mismatches[paths[0]][0]}"
        for what, paths in kinds.items()
        if paths
    ]
