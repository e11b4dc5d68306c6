"""Detection and instances in COCO format: a JSON file with images, categories and annotations, or one per split."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from visiontune.data.boxes import BoxCheck
from visiontune.data.polygons import Objects, meets, parse
from visiontune.data.readers.folders import PerSplit, per_split, relative, require_folder, root_folder
from visiontune.data.readers.objects import object_tasks, size_notes
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.scan import read_image_sizes
from visiontune.data.schema import Sample, Source
from visiontune.data.walk import walk
from visiontune.errors import UserError, listed, some


def read(
    root: str | Path | None,
    annotations: PerSplit | None = None,
    images: PerSplit = ".",
    splits: str | None = None,
    on_bad_box: str = "error",
) -> Source:
    """Read COCO's format; an image without annotations has no objects.

    Args:
        root: the data folder; the other paths are relative to it.
        annotations: the JSON file, or split -> file.
        images: the folder that `file_name` is relative to, or split -> folder.
        splits: folder with `{train,val,test}.txt`, if there is one JSON file for all splits.
        on_bad_box: what happens to invalid boxes: `error`, `clip` or `drop`.

    Raises:
        UserError: a file is missing or broken, refers to an unknown image or category, or has an invalid box.
    """
    root = root_folder(root)
    check = BoxCheck(on_bad_box)
    files = per_split(annotations, "data.annotations")
    folders = _folders(root, files, images)
    documents = {split: _load(root / name, name) for split, name in files.items()}
    categories = _categories(documents, files)
    category_labels = {category: label for label, category in enumerate(categories)}
    paths = {
        split: _paths(root, folders[split], document["images"], files[split]) for split, document in documents.items()
    }
    sizes = read_image_sizes(root, _unique_paths(paths))
    notes = _check_sizes(documents, paths, sizes) + _unlisted(root, folders, sizes)
    samples = []
    for split, document in documents.items():
        by_image = _by_image(document["annotations"], paths[split], files[split])
        for identity, path in paths[split].items():
            objects, ids = Objects(), []
            for annotation in by_image[identity]:
                location = f"{files[split]} annotation {annotation.get('id')} ({path})"
                if not _is_known(annotation.get("category_id"), category_labels):
                    known = some([str(category) for category in categories], 12)
                    raise UserError(
                        f"{location}: unknown category {annotation.get('category_id')!r}, known are {known}"
                    )
                try:
                    segment = parse(annotation.get("segmentation"), sizes[path])
                    box = _box(annotation.get("bbox"))
                    if not meets(segment, box, sizes[path]):
                        raise ValueError("its polygons are outside its box, or far outside its image")
                except ValueError as error:
                    check.refuse(f"{location}: {error}")
                    continue
                area = annotation.get("area")
                area = float(area) if isinstance(area, int | float) and area > 0 else 0.0
                objects.add(
                    box, category_labels[annotation["category_id"]], bool(annotation.get("iscrowd")), segment, area
                )
                ids.append(location)
            samples.append(Sample(path, objects.stored(sizes[path], check, ids.__getitem__), split))
    schema, new_notes = object_tasks(samples, list(categories.values()))
    notes += check.notes() + new_notes
    if splits:
        samples, new_notes = apply_split_lists(samples, root, [*folders.values()], root / splits)
        notes += new_notes
    return Source(schema, sorted(samples, key=lambda sample: sample.path), notes, root)


def _folders(root: Path, files: dict[str | None, str], images: PerSplit) -> dict[str | None, str]:
    folders_by_split = per_split(images, "data.images")
    if None not in folders_by_split and set(folders_by_split) != set(files):
        raise UserError(f"data.images={images} and data.annotations={files}: expected the same splits")
    folders = {split: folders_by_split.get(split) or folders_by_split[None] for split in files}
    for name in folders.values():
        require_folder(root / name, "data.images")
    return folders


def _load(file: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """Parse the JSON file and check that it has the three lists."""
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"data.annotations: the file {file} does not exist. Write data.annotations=FILE") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{name}:{error.lineno}: broken JSON ({error.msg}, column {error.colno})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: cannot be read ({error})") from error
    for key in ("images", "categories", "annotations"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{name}: not a COCO file: expected a list {key!r} of objects")
    return document


def _categories(documents: dict[str | None, dict], files: dict[str | None, str]) -> dict[int, str]:
    """id -> name, sorted by id; equal in all files."""
    categories: dict[int, str] | None = None
    for split, document in documents.items():
        pairs = [(category.get("id"), category.get("name")) for category in document["categories"]]
        if invalid := [pair for pair in pairs if not isinstance(pair[0], int) or not isinstance(pair[1], str)]:
            raise UserError(f"{files[split]}: category {invalid[0]} needs an integer id and a name")
        for what, values in (("id", [pair[0] for pair in pairs]), ("name", [pair[1] for pair in pairs])):
            if duplicates := [value for value, count in Counter(values).items() if count > 1]:
                raise UserError(f"{files[split]}: two categories have the {what} {duplicates[0]!r}")
        if not pairs:
            raise UserError(f"{files[split]}: its list of categories is empty")
        names = dict(sorted(pairs))
        if categories is not None and names != categories:
            differing = sorted(set(names.items()) ^ set(categories.items()))[0]
            first = next(iter(files.values()))
            raise UserError(
                f"{files[split]} and {first} have different categories, such as {differing[0]}: {differing[1]!r}. "
                f"Write the same list in all files."
            )
        categories = names
    return categories or {}


def _paths(root: Path, folder: str, images: list[dict[str, Any]], file: str) -> dict[Any, str]:
    """Image id -> path under the root; checks that every image exists and is listed once."""
    paths: dict[Any, str] = {}
    for image in images:
        identity, name = image.get("id"), image.get("file_name")
        if not isinstance(identity, int | str) or not isinstance(name, str):
            raise UserError(f"{file}: an image needs id and file_name, got {str(image)[:100]}")
        if identity in paths:
            raise UserError(f"{file}: two images have the id {identity!r}: {paths[identity]} and {name}")
        paths[identity] = relative(root / folder / name.replace("\\", "/"), root)
    if duplicates := [path for path, count in Counter(paths.values()).items() if count > 1]:
        ids = some([repr(identity) for identity, path in paths.items() if path == duplicates[0]])
        raise UserError(f"{file}: the images {ids} are the same file, {duplicates[0]}")
    if missing := [f"image {identity!r}: {path}" for identity, path in paths.items() if not (root / path).is_file()]:
        raise UserError(
            f"{len(missing)} of {len(paths)} images in {file} do not exist under {root / folder}; is data.images "
            f"correct?{listed(missing)}"
        )
    return paths


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


def _by_image(annotations: list[dict[str, Any]], paths: dict[Any, str], file: str) -> dict[Any, list[dict[str, Any]]]:
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        if not _is_known(annotation.get("image_id"), paths):
            raise UserError(
                f"{file}: annotation {annotation.get('id')} is for image {annotation.get('image_id')!r}, which the "
                f"file does not list"
            )
        by_image[annotation["image_id"]].append(annotation)
    return by_image


def _is_known(identity: Any, known: dict[Any, Any]) -> bool:
    return isinstance(identity, int | str) and identity in known


def _box(bbox: Any) -> list[float]:
    """x, y, width, height -> x1, y1, x2, y2."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(value, int | float) for value in bbox):
        raise ValueError(f"bbox={bbox} is not [x, y, width, height]")
    return [bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]]


def _check_sizes(documents: dict, paths: dict, sizes: dict[str, tuple[int, int]]) -> list[str]:
    """A note on images whose size differs from the one in the JSON file."""
    annotated = {
        paths[split][image["id"]]: (image.get("height"), image.get("width"))
        for split, document in documents.items()
        for image in document["images"]
    }
    return size_notes(annotated, sizes)


def _unlisted(root: Path, folders: dict[str | None, str], listed_images: dict[str, tuple[int, int]]) -> list[str]:
    walks = [walk(root / folder) for folder in dict.fromkeys(folders.values())]
    notes = [note for result in walks for note in result.notes]
    unlisted = sorted({relative(path, root) for result in walks for path in result.images} - set(listed_images))
    return [f"{len(unlisted)} images that are in no annotation file are left out: {some(unlisted)}"] * bool(
        unlisted
    ) + notes
