"""The parts of a COCO file, as tools write them: the document, its categories, its images and its crowd flags."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visiontune.data.readers.folders import relative
from visiontune.data.readers.named_images import NamedImages
from visiontune.data.text import is_unicode, normalized, read_text, to_id, to_number, to_pixels
from visiontune.errors import UserError, listed, pluralize, some

Id = int | str
Document = dict[str, list[dict[str, Any]]]


def load(file: Path, name: str) -> tuple[Document, list[str]]:
    """The document of a JSON file with its three lists, and notes.

    Args:
        name: of the file, for messages.

    Raises:
        UserError: the file does not exist, is not JSON, or lacks a list.
    """
    if not file.is_file():
        raise UserError(f"data.annotations: the file {file} does not exist. Write data.annotations=FILE")
    text, note = read_text(file)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{name}:{error.lineno}: broken JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise UserError(f"{name}: broken JSON (nested too deeply)") from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{name}: broken JSON ({str(error)[:60]})") from error
    for key in ("images", "categories", "annotations"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{name}: not a COCO file: expected a list {key!r} of objects")
    return document, [note] if note else []


def read_categories(
    documents: Mapping[str | None, Document], files: Mapping[str | None, str]
) -> tuple[dict[Id, str], list[str]]:
    """id -> name, sorted by id and equal in all files, and notes.

    A category without objects that is the supercategory of another one is left out: hosted labelling tools write it
    for the whole data set.

    Raises:
        UserError: a category has no id or name, two have the same, there is none, or the files differ.
    """
    used = {_try_id(entry.get("category_id")) for document in documents.values() for entry in document["annotations"]}
    categories: dict[Id, str] | None = None
    notes: dict[str, None] = {}
    for split, document in documents.items():
        pairs, left_out = _named_categories(document["categories"], used, files[split])
        notes |= dict.fromkeys(left_out)
        for what, values in (("id", [pair[0] for pair in pairs]), ("name", [pair[1] for pair in pairs])):
            if duplicates := [value for value, count in Counter(values).items() if count > 1]:
                raise UserError(f"{files[split]}: two categories have the {what} {duplicates[0]!r}")
        if not pairs:
            raise UserError(f"{files[split]}: its list of categories is empty")
        names = dict(sorted(pairs, key=lambda pair: (isinstance(pair[0], str), pair[0])))
        if categories is not None and names != categories:
            differing = min(set(names.items()) ^ set(categories.items()), key=lambda item: (str(item[0]), item[1]))
            first = next(iter(files.values()))
            raise UserError(
                f"{files[split]} and {first} have different categories, such as {differing[0]}: {differing[1]!r}. "
                f"Write the same list in all files."
            )
        categories = names
    return categories or {}, list(notes)


def _named_categories(
    entries: list[dict[str, Any]], used: set[Id | None], file: str
) -> tuple[list[tuple[Id, str]], list[str]]:
    """(id, name) of each category that is not left out, and notes on the others."""
    parents = Counter(entry["supercategory"] for entry in entries if isinstance(entry.get("supercategory"), str))
    pairs, notes = [], []
    for entry in entries:
        identity, name = _try_id(entry.get("id")), entry.get("name")
        is_name = isinstance(name, str | int | float) and not isinstance(name, bool) and name != ""
        if identity is None or not is_name or not is_unicode(str(name)):
            pair = (entry.get("id"), name)
            raise UserError(f"{file}: category {pair!s:.100} needs an integer id and a name")
        children = parents[str(name)] - (entry.get("supercategory") == name)
        if children and identity not in used:
            notes.append(f"the category {name!r} (id {identity}) is left out: it groups others and has no objects")
        else:
            pairs.append((identity, normalized(str(name))))
    return pairs, notes


def image_paths(
    root: Path, folder: str, images: list[dict[str, Any]], file: str
) -> tuple[dict[Id, str], dict[str, tuple[int, int]], list[str]]:
    """id -> path under the root, path -> annotated size (H, W), 0 where it is missing, and notes.

    Raises:
        UserError: an image has no id or name, does not exist, or is listed twice.
    """
    files = NamedImages([root / folder, root], root, file)
    paths: dict[Id, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    missing, repeated, first = [], 0, ""
    for image in images:
        identity, name = _try_id(image.get("id")), image.get("file_name") or image.get("coco_url")
        if identity is None or not isinstance(name, str):
            raise UserError(f"{file}: an image needs id and file_name, got {image!s:.100}")
        image_file = files.find(name, f"{file} image {identity!r}")
        path = relative(image_file or root / folder / name.replace("\\", "/"), root)
        if identity in paths and paths[identity] != path:
            raise UserError(f"{file}: two images have the id {identity!r}: {paths[identity]} and {name}")
        repeated += identity in paths
        missing += [f"image {identity!r}: {path}"] if image_file is None else []
        first = first or (name if image_file is None else "")
        paths[identity] = path
        sizes[path] = (to_pixels(image.get("height")), to_pixels(image.get("width")))
    if duplicates := [path for path, count in Counter(paths.values()).items() if count > 1]:
        ids = some([repr(identity) for identity, path in paths.items() if path == duplicates[0]])
        raise UserError(f"{file}: the images {ids} are the same file, {duplicates[0]}")
    if missing:
        place = files.locate(first) if len(missing) == len(paths) else ""
        raise UserError(
            f"{len(missing)} of {len(paths)} images in {file} do not exist under {root / folder}; is data.images "
            f"correct?{place}{listed(missing)}"
        )
    twice = pluralize(repeated, "image is", "images are")
    notes = [f"{twice} listed twice in {file}, and used once"] if repeated else []
    return paths, sizes, notes + files.notes()


def by_image(annotations: list[dict[str, Any]], paths: Mapping[Id, str], file: str) -> dict[Id, list[dict[str, Any]]]:
    """Image id -> its annotations. Raises UserError if an annotation is for an image that the file does not list."""
    annotations_by_image: dict[Id, list[dict[str, Any]]] = defaultdict(list)
    strangers = []
    for annotation in annotations:
        identity = _try_id(annotation.get("image_id"))
        if identity is not None and identity in paths:
            annotations_by_image[identity].append(annotation)
        else:
            strangers.append(annotation)
    if strangers:
        first = strangers[0]
        others = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
        raise UserError(
            f"{file}: annotation {first.get('id')!s:.40} is for image {first.get('image_id')!r:.40}, which the file "
            f"does not list{others}"
        )
    return annotations_by_image


def category_name(value: Any, categories: Mapping[Id, str]) -> str:
    """The name of the category with this id. Raises ValueError if there is none."""
    name = categories.get(identity) if (identity := _try_id(value)) is not None else None
    if name is None:
        known = some([str(category) for category in categories], 12)
        raise ValueError(f"unknown category {value!r:.40}, known are {known}")
    return name


def is_crowd(value: Any) -> bool:
    """The flag `iscrowd`; missing means no. Raises ValueError if it is neither 0 nor 1."""
    if value is None or value == "":
        return False
    if isinstance(value, bool):
        return value
    try:
        number = to_number(value)
    except ValueError:
        number = -1
    if number not in (0, 1):
        raise ValueError(f"iscrowd is {value!r:.40}: expected 0 (an object) or 1 (a crowd)")
    return bool(number)


def _try_id(value: Any) -> Id | None:
    try:
        return to_id(value)
    except ValueError:
        return None
