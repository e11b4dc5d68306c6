"""Schema and notes of samples with objects, shared by the readers of COCO, VOC and YOLO."""

from typing import Any

from visiontune.data.schema import Sample, TaskInfo


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
    note = f"{missing} images have objects without polygon or mask: they have no instances target"
    return schema, [note] if missing else []


def size_notes(annotated: dict[str, tuple[Any, Any]], sizes: dict[str, tuple[int, int]]) -> list[str]:
    """A note on images whose size differs from the annotated (H, W); 0 or None means not annotated."""
    mismatches = [path for path, size in annotated.items() if all(size) and size != sizes[path]]
    if not mismatches:
        return []
    path = mismatches[0]
    hint = " (rotated by its EXIF orientation?)" if sizes[path] == annotated[path][::-1] else ""
    return [
        f"{len(mismatches)} images have another size than annotated; the size of the file is used: {path} is "
        f"{sizes[path][1]}x{sizes[path][0]}, annotated as {annotated[path][1]}x{annotated[path][0]}{hint}"
    ]
