"""Detection and instances as COCO has them: one JSON file with images, categories and annotations, or one a split."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from visiontune.data.boxes import BoxCheck
from visiontune.data.polygons import Objects, meets, parse
from visiontune.data.readers.folders import PerSplit, existing, image_files, per_split, relative, root_folder
from visiontune.data.readers.objects import object_tasks, size_notes
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.scan import read_image_sizes
from visiontune.data.schema import Sample, Source
from visiontune.errors import UserError, listed, some


def read(
    root: str | Path | None,
    annotations: PerSplit | None = None,
    images: PerSplit = ".",
    splits: str | None = None,
    on_bad_box: str = "error",
) -> Source:
    """Read COCO's format; an image without annotations is one without objects.

    Args:
        root: the data folder; the other paths are relative to it.
        annotations: the JSON file, or one a split.
        images: the folder that `file_name` is relative to, or one a split.
        splits: folder with `{train,val,test}.txt`, where one JSON file is for all.
        on_bad_box: what becomes of a box that cannot be: `error`, `clip` or `drop`.

    Raises:
        UserError: a file is missing or broken, names something that there is not, or has a box that cannot be.
    """
    root = root_folder(root)
    check = BoxCheck(on_bad_box)
    files = per_split(annotations, "data.annotations")
    folders = _folders(root, files, images)
    documents = {split: _load(root / name, name) for split, name in files.items()}
    categories = _categories(documents, files)
    label_of = {category: label for label, category in enumerate(categories)}
    paths = {
        split: _paths(root, folders[split], document["images"], files[split]) for split, document in documents.items()
    }
    sizes = read_image_sizes(root, _unique(paths))
    notes = _other_sizes(documents, paths, sizes) + _unnamed(root, folders, sizes)
    samples = []
    for split, document in documents.items():
        by_image = _by_image(document["annotations"], paths[split], files[split])
        for identity, path in paths[split].items():
            objects, ids = Objects(), []
            for annotation in by_image[identity]:
                where = f"{files[split]} annotation {annotation.get('id')} ({path})"
                if not _names(annotation.get("category_id"), label_of):
                    known = some([str(category) for category in categories], 12)
                    raise UserError(f"{where}: category {annotation.get('category_id')!r} is none of {known}")
                try:
                    segment = parse(annotation.get("segmentation"), sizes[path])
                    box = _box(annotation.get("bbox"))
                    if not meets(segment, box, sizes[path]):
                        raise ValueError("its polygons lie outside its box, or far outside its image")
                except ValueError as error:
                    check.refuse(f"{where}: {error}")
                    continue
                area = annotation.get("area")
                area = float(area) if isinstance(area, int | float) and area > 0 else 0.0
                objects.add(box, label_of[annotation["category_id"]], bool(annotation.get("iscrowd")), segment, area)
                ids.append(where)
            samples.append(Sample(path, objects.stored(sizes[path], check, ids.__getitem__), split))
    schema, more = object_tasks(samples, list(categories.values()))
    notes += check.notes() + more
    if splits:
        samples, more = apply_split_lists(samples, root, [*folders.values()], root / splits)
        notes += more
    return Source(schema, sorted(samples, key=lambda sample: sample.path), notes, root)


def _folders(root: Path, files: dict[str | None, str], images: PerSplit) -> dict[str | None, str]:
    given = per_split(images, "data.images")
    if None not in given and set(given) != set(files):
        raise UserError(f"data.images={images} and data.annotations={files} are not of the same splits")
    folders = {split: given.get(split) or given[None] for split in files}
    for name in folders.values():
        existing(root / name, "data.images")
    return folders


def _load(file: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """The JSON file, with the three lists in it."""
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
            raise UserError(f"{name}: no COCO annotations: it has no list {key!r} of objects")
    return document


def _categories(documents: dict[str | None, dict], files: dict[str | None, str]) -> dict[int, str]:
    """id -> name, by id; the same in every file."""
    found: dict[int, str] | None = None
    for split, document in documents.items():
        pairs = [(category.get("id"), category.get("name")) for category in document["categories"]]
        if bad := [pair for pair in pairs if not isinstance(pair[0], int) or not isinstance(pair[1], str)]:
            raise UserError(f"{files[split]}: category {bad[0]} needs a number as id, and a name")
        for what, values in (("id", [pair[0] for pair in pairs]), ("name", [pair[1] for pair in pairs])):
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                raise UserError(f"{files[split]}: two categories have the {what} {twice[0]!r}")
        if not pairs:
            raise UserError(f"{files[split]}: it names no categories")
        mine = dict(sorted(pairs))
        if found is not None and mine != found:
            differing = sorted(set(mine.items()) ^ set(found.items()))[0]
            first = next(iter(files.values()))
            raise UserError(
                f"{files[split]} and {first} have other categories, such as {differing[0]}: {differing[1]!r}. "
                f"Give all splits the same list."
            )
        found = mine
    return found or {}


def _paths(root: Path, folder: str, images: list[dict[str, Any]], file: str) -> dict[Any, str]:
    """Image id -> path under the root; each is there, and named once."""
    found: dict[Any, str] = {}
    for image in images:
        identity, name = image.get("id"), image.get("file_name")
        if not isinstance(identity, int | str) or not isinstance(name, str):
            raise UserError(f"{file}: an image needs id and file_name; one is {str(image)[:100]}")
        if identity in found:
            raise UserError(f"{file}: two images have the id {identity!r}: {found[identity]} and {name}")
        found[identity] = relative(root / folder / name.replace("\\", "/"), root)
    if twice := [path for path, count in Counter(found.values()).items() if count > 1]:
        ids = some([repr(identity) for identity, path in found.items() if path == twice[0]])
        raise UserError(f"{file}: the images {ids} are one file, {twice[0]}")
    if missing := [f"image {identity!r}: {path}" for identity, path in found.items() if not (root / path).is_file()]:
        raise UserError(
            f"{len(missing)} of {len(found)} images that {file} lists are not under {root / folder}; is it "
            f"data.images?{listed(missing)}"
        )
    return found


def _unique(paths: dict[str | None, dict[Any, str]]) -> list[str]:
    owner: dict[str, str | None] = {}
    for split, mine in paths.items():
        for path in mine.values():
            if path in owner:
                raise UserError(f"{path} is in the annotations of both {owner[path]} and {split}. It has one split.")
            owner[path] = split
    return list(owner)


def _by_image(annotations: list[dict[str, Any]], paths: dict[Any, str], file: str) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        if not _names(annotation.get("image_id"), paths):
            raise UserError(
                f"{file}: annotation {annotation.get('id')} is for image {annotation.get('image_id')!r}, which is not "
                f"among its images"
            )
        found[annotation["image_id"]].append(annotation)
    return found


def _names(identity: Any, known: dict[Any, Any]) -> bool:
    return isinstance(identity, int | str) and identity in known


def _box(given: Any) -> list[float]:
    """x, y, width, height -> x1, y1, x2, y2."""
    if not isinstance(given, list) or len(given) != 4 or not all(isinstance(value, int | float) for value in given):
        raise ValueError(f"bbox={given} is not [x, y, width, height]")
    return [given[0], given[1], given[0] + given[2], given[1] + given[3]]


def _other_sizes(documents: dict, paths: dict, sizes: dict[str, tuple[int, int]]) -> list[str]:
    """A note on images of another size than the file says; their own counts."""
    said = {
        paths[split][image["id"]]: (image.get("height"), image.get("width"))
        for split, document in documents.items()
        for image in document["images"]
    }
    return size_notes(said, sizes)


def _unnamed(root: Path, folders: dict[str | None, str], named: dict[str, tuple[int, int]]) -> list[str]:
    there = {relative(path, root) for folder in set(folders.values()) for path in image_files(root / folder)}
    rest = sorted(there - set(named))
    return [f"{len(rest)} images that no annotation file lists are left out: {some(rest)}"] if rest else []
