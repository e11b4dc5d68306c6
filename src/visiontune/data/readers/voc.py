"""Detection and segmentation in Pascal VOC format: an XML file per image, palette PNGs, split lists.

Coordinates are read as x1, y1, x2, y2 in pixels from 0, as most tools write them. The files of the VOC challenge count
from 1 and include the last pixel, so that their boxes begin one pixel too far to the right and bottom.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from visiontune.data.bad_files import BadFiles
from visiontune.data.boxes import BoxCheck
from visiontune.data.image_files import MAX_PIXELS
from visiontune.data.images import ImageDecoder
from visiontune.data.label_maps import Coding, Value, label_map_notes, label_maps
from visiontune.data.mask_files import read_masks
from visiontune.data.polygons import Objects
from visiontune.data.readers.class_names import class_names
from visiontune.data.readers.folders import by_stem, relative, require_folder, root_folder
from visiontune.data.readers.objects import ClassSelection, size_notes
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.readers.voc_download import challenge_folder
from visiontune.data.readers.voc_xml import VocAnnotation, file_notes, read_xml
from visiontune.data.scan import orientation_note, read_image_sizes
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.data.targets import IGNORE, Stored
from visiontune.data.walk import Walk, walk
from visiontune.errors import UserError, listed, pluralize, some

DIFFICULT = ("ignore", "keep", "drop")
DEFAULT_FOLDERS = {"annotations": "Annotations", "masks": "SegmentationClass", "splits": "ImageSets/Main"}
# The classes of the challenge; their values in masks are 1 to 20.
CHALLENGE = (  # noqa: SIM905
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
).split()


def read(
    root: str | Path | None,
    images: str = "JPEGImages",
    annotations: str | None = DEFAULT_FOLDERS["annotations"],
    masks: str | None = DEFAULT_FOLDERS["masks"],
    splits: str | None = DEFAULT_FOLDERS["splits"],
    classes: list[str] | None = None,
    values: list[Value] | None = None,
    ignore_value: Value | None = None,
    difficult: str = "ignore",
    on_bad_box: str = "error",
    download: str | int | None = None,
    include: Sequence[str] | None = None,
    orientation: str = "apply",
    on_bad_image: str = "error",
    max_pixels: int | None = MAX_PIXELS,
    tasks: Sequence[str] | None = None,
    allow_download: bool = True,
) -> Source:
    """Read VOC's format; a task is left out if its default folder does not exist.

    Args:
        root: the data folder (such as VOCdevkit/VOC2012); the other paths are relative to it.
        classes: names without the background, in label order; by default those in the XML files, sorted.
        values: value of background and each class in the masks; by default those of the challenge if the masks have
            them, else 0, 1, 2, ...
        ignore_value: the value of unlabelled pixels, by default 255.
        difficult: what happens to objects marked as difficult: metrics ignore them (`ignore`), they are used like
            others (`keep`), or they are left out (`drop`).
        on_bad_box: what happens to invalid boxes: `error`, `clip` or `drop`.
        download: a year of the challenge, which is read from the root as unpacked by torchvision, or downloaded.
        include: classes to use; objects and pixels of others are background.
        orientation: whether boxes are in the frame after (`apply`) or before (`ignore`) the EXIF orientation.
        on_bad_image: what happens to images and masks that cannot be read: `error`, or `skip` to leave them out.
        max_pixels: larger images and masks cannot be read.
        tasks: those of the heads; boxes and masks are read only if they need them. None means all.
        allow_download: False for a run that exists: nothing is downloaded.

    Raises:
        UserError: a file is missing, broken or does not belong to an image, or has an invalid box or value.
    """
    root = root_folder(root if download is None else challenge_folder(root, download, images, allow_download))
    if difficult not in DIFFICULT:
        raise UserError(f"data.difficult={difficult}: write one of {', '.join(DIFFICULT)}")
    check, bad_files = BoxCheck(on_bad_box), BadFiles(on_bad_image)
    decoder = ImageDecoder(orientation=orientation, max_pixels=max_pixels)
    names = class_names([name for name in classes or [] if name != "background"])
    base = require_folder(root / images, "data.images")
    xml, png = _folder(root, annotations, "annotations"), _folder(root, masks, "masks")
    all_images, xml_files, maps, notes = _files(root, base, xml, png)
    samples = [Sample(path, {}) for path in all_images if path in xml_files or path in maps]
    if lists := _folder(root, splits, "splits"):
        samples, new_notes = apply_split_lists(samples, root, images, lists)
        notes += new_notes
    elif splits:
        notes.append(f"there are no split lists in {root / splits}: the data is split by data.split_ratio")
    sizes = read_image_sizes(root, [sample.path for sample in samples], decoder, bad_files)
    samples = [sample for sample in samples if sample.path in sizes]
    paths = [sample.path for sample in samples]
    notes += orientation_note(root, paths, orientation)
    schema: dict[str, TaskInfo] = {}
    targets: dict[str, dict[str, Stored]] = {path: {} for path in paths}
    with_boxes = bool(xml_files) and (tasks is None or "detection" in tasks)
    with_masks = bool(maps) and (tasks is None or "segmentation" in tasks)
    files = {path: relative(xml_files[path], root) for path in paths if path in xml_files}
    needed = files if with_boxes or not names else {}
    contents = {path: read_xml(xml_files[path], name, with_boxes) for path, name in needed.items()}
    names = names or sorted({item.name for content in contents.values() for item in content.objects})
    if with_boxes and not names:
        raise UserError(f"{len(xml_files)} XML files contain no object: {some(sorted(files.values()))}")
    if with_masks and not names:
        raise UserError("data.classes is not set, and no XML file has class names: write e.g. data.classes=[cat,dog]")
    selection = ClassSelection(names, include)
    if with_boxes:
        boxes, new_notes = _boxes(contents, files, sizes, selection, names, difficult, check)
        schema["detection"] = TaskInfo("detection", selection.names)
        annotated_sizes = {path: content.size for path, content in contents.items()}
        notes += size_notes(root, annotated_sizes, sizes, orientation) + new_notes
        for path, target in boxes.items():
            targets[path]["detection"] = target
    notes += file_notes(contents, files, all_images)
    if with_masks:
        masks_by_image = {path: maps[path] for path in paths if path in maps}
        coding, new_notes = _coding(root, masks_by_image, names, values, ignore_value, bad_files, decoder)
        coding = coding.select(["background", *selection.names])
        schema["segmentation"] = TaskInfo("segmentation", coding.classes)
        stored = label_maps(root, masks_by_image, sizes, coding, bad_files)
        notes += new_notes + label_map_notes(root, stored)
        for path, label_map in stored.items():
            targets[path]["segmentation"] = label_map
    samples = [
        replace(sample, targets=targets[sample.path])
        for sample in samples
        if maps.get(sample.path) not in bad_files.problems
    ]
    notes += bad_files.notes()
    return Source(schema, sorted(samples, key=lambda sample: sample.path), notes, root)


def _folder(root: Path, name: str | None, key: str) -> Path | None:
    """The folder; None if it has its default name and does not exist."""
    if not name or (name == DEFAULT_FOLDERS[key] and not (root / name).is_dir()):
        return None
    return require_folder(root / name, f"data.{key}")


def _files(
    root: Path, base: Path, xml: Path | None, png: Path | None
) -> tuple[list[str], dict[str, Path], dict[str, str], list[str]]:
    """All images, image -> XML file, image -> mask, and notes."""
    image_walk = walk(base, without=[folder for folder in (xml, png) if folder and folder != base])
    image_paths = image_walk.images
    if png == base:  # images and masks side by side
        image_paths = [path for path in image_paths if path.suffix.lower() != ".png"]
    images_by_stem = {stem: relative(path, root) for stem, path in by_stem(image_paths, base).items()}
    xml_walk, png_walk = (walk(folder, aliases=True) if folder else Walk([], []) for folder in (xml, png))
    xml_files = by_stem([path for path in xml_walk.files if path.suffix.lower() == ".xml"], xml) if xml else {}
    masks = by_stem([path for path in png_walk.images if path.suffix.lower() == ".png"], png) if png else {}
    if unmatched := [
        relative(path, root) for stem, path in {**masks, **xml_files}.items() if stem not in images_by_stem
    ]:
        raise UserError(
            f"{len(unmatched)} annotations have no image of the same name in {base}:{listed(sorted(unmatched))}"
        )
    if not xml_files and not masks:
        raise UserError(f"{base} has no annotations: write data.annotations=DIR (XML files), data.masks=DIR or both")
    unlabelled = sorted(path for stem, path in images_by_stem.items() if stem not in xml_files and stem not in masks)
    count = pluralize(len(unlabelled), "image without annotation is", "images without annotation are")
    notes = [f"{count} left out: {some(unlabelled)}"] if unlabelled else []
    notes += dict.fromkeys([*image_walk.notes, *xml_walk.notes, *png_walk.notes])
    return (
        [*images_by_stem.values()],
        {images_by_stem[stem]: path for stem, path in xml_files.items()},
        {images_by_stem[stem]: relative(path, root) for stem, path in masks.items()},
        notes,
    )


def _boxes(
    annotations: dict[str, VocAnnotation],
    files: dict[str, str],
    sizes: dict[str, tuple[int, int]],
    classes: ClassSelection,
    known: list[str],
    difficult: str,
    check: BoxCheck,
) -> tuple[dict[str, Stored], list[str]]:
    """Detection targets by image, and notes."""
    targets, difficult_count = {}, 0
    for path, annotation in annotations.items():
        objects, locations = Objects(), []
        for item in annotation.objects:
            location = f"{files[path]}:{item.line}"
            if item.name not in known:
                raise UserError(f"{location}: {item.name!r} is not in data.classes={known}")
            label = classes.label(item.name)
            if label is None:
                continue
            difficult_count += item.difficult
            if not (item.difficult and difficult == "drop"):
                objects.add(item.box, label, crowd=item.difficult and difficult == "ignore")
                locations.append(location)
        targets[path] = objects.stored(sizes[path], check, locations.__getitem__)["detection"]
    notes = check.notes() + classes.notes()
    if difficult_count and difficult != "keep":
        what = "left out" if difficult == "drop" else "ignored by metrics"
        notes.append(f"{difficult_count} difficult objects are {what} (data.difficult={difficult})")
    return targets, notes


def _coding(
    root: Path,
    masks: dict[str, str],
    classes: list[str],
    values: list[Value] | None,
    ignore: Value | None,
    bad_files: BadFiles,
    decoder: ImageDecoder,
) -> tuple[Coding, list[str]]:
    """The coding of the masks, and a note if it is inferred from the data."""
    names = ["background", *classes]
    if values is not None:
        return Coding(names, values, ignore, decoder), []
    codes = list(range(len(names)))
    if set(classes) <= set(CHALLENGE):
        # A subset of the challenge has fewer classes, with the original values.
        official = [0, *(1 + CHALLENGE.index(name) for name in classes)]
        contents = read_masks(root, sorted(masks.values()), decoder=decoder, bad=bad_files)
        values_in_masks = {code for mask in contents.values() for code in mask["values"]}
        codes = official if values_in_masks <= {*official, IGNORE} else codes
    meanings = [f"{code} {name}" for code, name in zip(codes, names, strict=True)]
    return Coding(names, codes, ignore, decoder), [f"values in masks: {some(meanings, 22)}"]
