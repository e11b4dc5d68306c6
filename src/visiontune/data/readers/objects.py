"""What the readers of objects (COCO, VOC, YOLO) share once their samples are made."""

from typing import Any

from visiontune.data.schema import Sample, TaskInfo


def object_tasks(samples: list[Sample], classes: list[str]) -> tuple[dict[str, TaskInfo], list[str]]:
    """The schema, and notes: detection, and instances where any object has a segment; else its targets are removed."""
    drawn = [sample for sample in samples if "instances" in sample.targets]
    schema = {"detection": TaskInfo("detection", classes)}
    if not any(sample.targets["instances"].labels for sample in drawn):
        for sample in drawn:
            del sample.targets["instances"]
        return schema, []
    schema["instances"] = TaskInfo("instances", classes)
    lacking = len(samples) - len(drawn)
    note = f"{lacking} images have objects without polygon or mask: they have no instances target"
    return schema, [note] if lacking else []


def size_notes(said: dict[str, tuple[Any, Any]], sizes: dict[str, tuple[int, int]]) -> list[str]:
    """A note on images that are not of the (H, W) that their annotation says; 0 or nothing means unsaid."""
    other = [path for path, size in said.items() if all(size) and size != sizes[path]]
    if not other:
        return []
    path = other[0]
    turned = " (turned by its EXIF orientation?)" if sizes[path] == said[path][::-1] else ""
    return [
        f"{len(other)} images are not of the size that their annotation says, their own counts: {path} is "
        f"{sizes[path][1]}x{sizes[path][0]}, said to be {said[path][1]}x{said[path][0]}{turned}"
    ]
