"""Detection and instances in COCO format: a JSON file with images, categories and annotations, or one per split."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from visiontune.data.bad_files import BadFiles
from visiontune.data.boxes import BoxCheck
from visiontune.data.image_files import MAX_PIXELS
from visiontune.data.images import ImageDecoder
from visiontune.data.polygons import Objects, Segment, bounds, has_outline, meets, parse
from visiontune.data.readers.coco_file import (
    Document,
    Id,
    by_image,
    category_name,
    image_paths,
    is_crowd,
    load,
    read_categories,
)
from visiontune.data.readers.folders import PerSplit, per_split, relative, require_folder, root_folder
from visiontune.data.readers.objects import ClassSelection, object_tasks, size_notes
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.scan import orientation_note, read_image_sizes
from visiontune.data.schema import Sample, Source
from visiontune.data.text import to_number
from visiontune.data.walk import walk
from visiontune.errors import UserError, pluralize, some


def read(
    root: str | Path | None,
    annotations: PerSplit | None = None,
    images: PerSplit = ".",
    splits: str | None = None,
    on_bad_box: str = "error",
    include: Sequence[str] | None = None,
    orientation: str = "apply",
    on_bad_image: str = "error",
    max_pixels: int | None = MAX_PIXELS,
    tasks: Sequence[str] | None = None,
) -> Source:
    """Read COCO's format; an image without annotations has no objects.

    Args:
        root: the data folder; the other paths are relative to it.
        annotations: the JSON file, or split -> file.
        images: the folder that `file_name` is relative to, or split -> folder.
        splits: folder with `{train,val,test}.txt`, if there is one JSON file for all splits.
        on_bad_box: what happens to invalid boxes: `error`, `clip` or `drop`.
        include: classes to use; objects of others are background.
        orientation: whether boxes are in the frame after (`apply`) or before (`ignore`) the EXIF orientation.
        on_bad_image: what happens to images that cannot be read: `error`, or `skip` to leave them out.
        max_pixels: larger images cannot be read.
        tasks: those of the heads; polygons are read only if `instances` is one of them. None means all.

    Raises:
        UserError: a file is missing or broken, refers to an unknown image or category, or has an invalid box.
    """
    root = root_folder(root)
    check, bad_files = BoxCheck(on_bad_box), BadFiles(on_bad_image)
    files = per_split(annotations, "data.annotations")
    folders = _folders(root, files, images)
    documents: dict[str | None, Document] = {}
    notes: list[str] = []
    for split, name in files.items():
        documents[split], new_notes = load(root / name, name)
        notes += new_notes
    categories, new_notes = read_categories(documents, files)
    notes += new_notes
    classes = ClassSelection(list(categories.values()), include)
    paths: dict[str | None, dict[Id, str]] = {}
    annotated_sizes: dict[str, tuple[int, int]] = {}
    for split, document in documents.items():
        paths[split], split_sizes, new_notes = image_paths(root, folders[split], document["images"], files[split])
        annotated_sizes |= split_sizes
        notes += new_notes
    decoder = ImageDecoder(orientation=orientation, max_pixels=max_pixels)
    sizes = read_image_sizes(root, _unique_paths(paths), decoder, bad_files)
    notes += bad_files.notes() + size_notes(root, annotated_sizes, sizes, orientation)
    notes += orientation_note(root, list(sizes), orientation) + _unlisted(root, folders, annotated_sizes)
    parser = _AnnotationParser(masks=tasks is None or "instances" in tasks)
    samples = []
    for split, document in documents.items():
        annotations_by_image = by_image(document["annotations"], paths[split], files[split])
        for identity, path in paths[split].items():
            if path not in sizes:
                continue
            objects, locations = Objects(), []
            for annotation in annotations_by_image[identity]:
                location = f"{files[split]} annotation {annotation.get('id')!s:.40} ({path})"
                try:
                    name = category_name(annotation.get("category_id"), categories)
                    crowd = is_crowd(annotation.get("iscrowd"))
                except ValueError as error:
                    raise UserError(f"{location}: {error}") from error
                label = classes.label(name)
                if label is None:
                    continue
                try:
                    box, segment = parser.parse(annotation, sizes[path], location)
                except ValueError as error:
                    check.refuse(f"{location}: {error}")
                    continue
                objects.add(box, label, crowd, segment, _area(annotation.get("area"), sizes[path]))
                locations.append(location)
            samples.append(Sample(path, objects.stored(sizes[path], check, locations.__getitem__), split))
    schema, new_notes = object_tasks(samples, classes.names)
    notes += check.notes() + parser.notes() + classes.notes() + _crowd_notes(samples) + new_notes
    if tasks is not None and "instances" in tasks and "instances" not in schema:
        raise UserError(f"{some(list(files.values()))}: no object has polygons or a mask. Write heads=detection")
    if splits:
        samples, new_notes = apply_split_lists(samples, root, [*folders.values()], root / splits)
        notes += new_notes
    return Source(schema, sorted(samples, key=lambda sample: sample.path), notes, root)


class _AnnotationParser:
    """Parses boxes and outlines, and counts the annotations that lack one of them or are marked.

    Args:
        masks: whether outlines are needed; otherwise an outline is parsed only where there is no box.
    """

    def __init__(self, masks: bool) -> None:
        self.masks = masks
        self._without_box: list[str] = []
        self._without_outline: list[str] = []
        self._ignored: list[str] = []
        self._with_score: list[str] = []

    def parse(
        self, annotation: dict[str, Any], size: tuple[int, int], location: str
    ) -> tuple[list[float], Segment | None]:
        """The box (x1, y1, x2, y2) and the outline of an annotation. Raises ValueError if they are invalid."""
        bbox, segmentation = annotation.get("bbox"), annotation.get("segmentation")
        self._ignored += [location] if annotation.get("ignore") in (1, "1") else []
        self._with_score += [location] if annotation.get("score") is not None else []
        segment = parse(segmentation, size) if self.masks or bbox in (None, "", []) else None
        if bbox in (None, "", []):
            if segment is None:
                raise ValueError("it has neither bbox nor polygons")
            box = bounds(segment)
            self._without_box.append(location)
        else:
            box = _box(bbox)
        if not meets(segment, box, size):
            raise ValueError("its polygons are outside its box, or far outside its image")
        if not self.masks and segmentation not in (None, "", [], {}) and not has_outline(segmentation):
            self._without_outline.append(location)
        return box, segment if self.masks else None

    def notes(self) -> list[str]:
        messages = {
            "no bbox: the box around their polygons is used": self._without_box,
            "a segmentation without polygon, which detection does not need": self._without_outline,
            "ignore=1, and are used like others; write iscrowd=1 if metrics should ignore them": self._ignored,
            "a score, as predictions have, and are used as true labels": self._with_score,
        }
        return [
            f"{pluralize(len(places), 'object has', 'objects have')} {what}: {some(places)}"
            for what, places in messages.items()
            if places
        ]


def _folders(root: Path, files: dict[str | None, str], images: PerSplit) -> dict[str | None, str]:
    folders_by_split = per_split(images, "data.images")
    if None not in folders_by_split and set(folders_by_split) != set(files):
        raise UserError(f"data.images={images} and data.annotations={files}: expected the same splits")
    folders = {split: folders_by_split.get(split) or folders_by_split[None] for split in files}
    for name in folders.values():
        require_folder(root / name, "data.images")
    return folders


def _crowd_notes(samples: list[Sample]) -> list[str]:
    crowds = sum(sum(sample.targets["detection"].crowd) for sample in samples)
    return [f"{crowds} objects are crowds (iscrowd=1): training and metrics ignore them"] if crowds else []


def _unique_paths(paths: dict[str | None, dict[Any, str]]) -> list[str]:
    path_splits: dict[str, str | None] = {}
    for split, split_paths in paths.items():
        for path in split_paths.values():
            if path in path_splits:
                raise UserError(
                    f"{path} is in the annotations of both {path_splits[path]} and {split}. A sample has one split."
                )
            path_splits[path] = split
    return list(path_splits)


def _box(bbox: Any) -> list[float]:
    """x, y, width, height -> x1, y1, x2, y2."""
    message = f"bbox={bbox!s:.80} is not [x, y, width, height]"
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(message)
    try:
        # A float may be NaN, which another check reports.
        x, y, width, height = (value if isinstance(value, float) else to_number(value) for value in bbox)
    except ValueError:
        raise ValueError(message) from None
    return [x, y, x + width, y + height]


def _area(value: Any, size: tuple[int, int]) -> float:
    """The area of the file in pixels; 0 (unknown) if it is no number, or larger than its image."""
    try:
        area = to_number(value)
    except ValueError:
        return 0.0
    return area if 0 < area <= size[0] * size[1] else 0.0


def _unlisted(root: Path, folders: dict[str | None, str], listed_images: Collection[str]) -> list[str]:
    """Notes on images that are in no annotation file, and on what the walk through the folders leaves out."""
    walks = [walk(root / folder) for folder in dict.fromkeys(folders.values())]
    unlisted = sorted({relative(path, root) for result in walks for path in result.images} - set(listed_images))
    count = pluralize(len(unlisted), "image is", "images are")
    notes = [f"{count} in no annotation file, and left out: {some(unlisted)}"]
    return (notes if unlisted else []) + [note for result in walks for note in result.notes]
