"""Detection and segmentation as Pascal VOC has them: an XML file an image, index PNGs, lists of splits.

Coordinates are taken as they stand: x1, y1, x2, y2 in pixels from 0. (The challenge's own files count from 1 and
include the last pixel, so that their boxes begin a pixel too far right and down; most tools that write this format do
not.)
"""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from visiontune.data.boxes import BoxCheck
from visiontune.data.label_maps import Coding, Value, label_maps, look_at_masks
from visiontune.data.polygons import Objects
from visiontune.data.readers.folders import all_files, by_stem, existing, image_files, relative, root_folder
from visiontune.data.readers.objects import size_notes
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.readers.voc_download import challenge_folder
from visiontune.data.scan import read_image_sizes
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.data.targets import IGNORE, Stored
from visiontune.errors import UserError, listed, some

DIFFICULT = ("ignore", "keep", "drop")
USUAL = {"annotations": "Annotations", "masks": "SegmentationClass", "splits": "ImageSets/Main"}
# The challenge's classes; 1 to 20 in its masks.
CHALLENGE = (  # noqa: SIM905
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
).split()


def read(
    root: str | Path | None,
    images: str = "JPEGImages",
    annotations: str | None = USUAL["annotations"],
    masks: str | None = USUAL["masks"],
    splits: str | None = USUAL["splits"],
    classes: list[str] | None = None,
    values: list[Value] | None = None,
    ignore_value: Value | None = None,
    difficult: str = "ignore",
    on_bad_box: str = "error",
    download: str | int | None = None,
) -> Source:
    """Read VOC's format; where a folder of the usual name is missing, there is no such task.

    Args:
        root: the data folder (such as VOCdevkit/VOC2012); the other paths are relative to it.
        classes: names without the background, in label order; by default those in the XML all_files, sorted.
        values: of background and classes in the masks; by default 0, 1, 2, ... (as the challenge has them, if so).
        ignore_value: of pixels without a truth, by default 255.
        difficult: objects marked so count neither as found nor as missed (`ignore`), like others (`keep`), or are
            left out (`drop`).
        on_bad_box: what becomes of a box that cannot be: `error`, `clip` or `drop`.
        download: a year of the challenge, found under the root as torchvision unpacks it, or fetched there.

    Raises:
        UserError: a file is missing, broken or does not belong to an image, or has a box or a value that cannot be.
    """
    root = root_folder(root if download is None else challenge_folder(root, download, images))
    if difficult not in DIFFICULT:
        raise UserError(f"data.difficult={difficult}: write one of {', '.join(DIFFICULT)}")
    check = BoxCheck(on_bad_box)
    if classes and "background" in classes:
        classes = [name for name in classes if name != "background"]
    base = existing(root / images, "data.images")
    xml, png = _folder(root, annotations, "annotations"), _folder(root, masks, "masks")
    samples, pages, maps, notes = _files(root, base, xml, png)
    if lists := _folder(root, splits, "splits"):
        samples, more = apply_split_lists(samples, root, images, lists)
        notes += more
    elif splits:
        notes.append(f"there are no lists of splits in {root / splits}: data.split_ratio makes them")
    paths = [sample.path for sample in samples]
    sizes = read_image_sizes(root, paths)
    schema: dict[str, TaskInfo] = {}
    targets: dict[str, dict[str, Stored]] = {path: {} for path in paths}
    if pages:
        boxes, classes, more = _boxes(
            {path: pages[path] for path in paths if path in pages}, root, sizes, classes, difficult, check
        )
        schema["detection"] = TaskInfo("detection", classes)
        notes += more + check.notes()
        for path, target in boxes.items():
            targets[path]["detection"] = target
    if maps:
        if not classes:
            raise UserError("data.classes is not set: no XML file says what the values of the masks mean")
        chosen = {path: maps[path] for path in paths if path in maps}
        coding, more = _coding(root, chosen, classes, values, ignore_value)
        schema["segmentation"] = TaskInfo("segmentation", coding.classes)
        notes += more
        for path, stored in label_maps(root, chosen, sizes, coding).items():
            targets[path]["segmentation"] = stored
    samples = [replace(sample, targets=targets[sample.path]) for sample in samples]
    return Source(schema, sorted(samples, key=lambda sample: sample.path), notes, root)


def _folder(root: Path, name: str | None, key: str) -> Path | None:
    """The folder; none where it is not there and has its usual name."""
    if not name or (name == USUAL[key] and not (root / name).is_dir()):
        return None
    return existing(root / name, f"data.{key}")


def _files(
    root: Path, base: Path, xml: Path | None, png: Path | None
) -> tuple[list[Sample], dict[str, Path], dict[str, str], list[str]]:
    """Samples without targets, image -> XML file, image -> mask, and notes."""
    inside = image_files(base, without=[folder for folder in (xml, png) if folder and folder != base])
    if png == base:  # images and masks side by side
        inside = [path for path in inside if path.suffix.lower() != ".png"]
    found = {stem: relative(path, root) for stem, path in by_stem(inside, base).items()}
    pages = by_stem([path for path in all_files(xml) if path.suffix.lower() == ".xml"], xml) if xml else {}
    masks = by_stem([path for path in image_files(png) if path.suffix.lower() == ".png"], png) if png else {}
    if lonely := [relative(path, root) for stem, path in {**masks, **pages}.items() if stem not in found]:
        raise UserError(f"{len(lonely)} annotations have no image of their name in {base}:{listed(sorted(lonely))}")
    if not pages and not masks:
        raise UserError(f"{base} has no annotations: write data.annotations=DIR (XML files), data.masks=DIR or both")
    kept = [path for stem, path in found.items() if stem in pages or stem in masks]
    rest = sorted(set(found.values()) - set(kept))
    notes = [f"{len(rest)} images without annotation are left out: {some(rest)}"] if rest else []
    return (
        [Sample(path, {}) for path in kept],
        {found[stem]: path for stem, path in pages.items()},
        {found[stem]: relative(path, root) for stem, path in masks.items()},
        notes,
    )


def _boxes(
    pages: dict[str, Path],
    root: Path,
    sizes: dict[str, tuple[int, int]],
    classes: list[str] | None,
    difficult: str,
    check: BoxCheck,
) -> tuple[dict[str, Stored], list[str], list[str]]:
    """Detection targets by image, the classes, and notes."""
    read_in = {path: _page(file, relative(file, root)) for path, file in pages.items()}
    names = classes or sorted({one.name for _, found in read_in.values() for one in found})
    if not names:
        raise UserError(f"none of {len(pages)} XML files has an object in it")
    targets, hard = {}, 0
    for path, (_, found) in read_in.items():
        file = relative(pages[path], root)
        objects, lines = Objects(), []
        for one in found:
            where = f"{file}:{one.line}"
            if one.name not in names:
                raise UserError(f"{where}: {one.name!r} is none of data.classes={names}")
            hard += one.difficult
            if not (one.difficult and difficult == "drop"):
                objects.add(one.box, names.index(one.name), crowd=one.difficult and difficult == "ignore")
                lines.append(where)
        targets[path] = objects.stored(sizes[path], check, lines.__getitem__)["detection"]
    notes = size_notes({path: size for path, (size, _) in read_in.items()}, sizes)
    if hard and difficult != "keep":
        what = "left out" if difficult == "drop" else "neither found nor missed in metrics"
        notes.append(f"{hard} difficult objects are {what} (data.difficult={difficult})")
    return targets, names, notes


class _Object(NamedTuple):
    name: str
    difficult: bool
    box: list[float]
    line: int


def _page(path: Path, name: str) -> tuple[tuple[int, int], list[_Object]]:
    """The (H, W) that an XML file says (0 where it does not), and its objects."""
    data = path.read_bytes()
    try:
        tree = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise UserError(f"{name}:{error.position[0]}: broken XML ({error.msg.split(':')[0]})") from error
    except (LookupError, ValueError) as error:
        raise UserError(f"{name}:1: broken XML ({error})") from error
    nodes = tree.findall("object")
    lines = [data.count(b"\n", 0, match.start()) + 1 for match in re.finditer(rb"<object[\s>]", data)]
    if len(lines) != len(nodes):  # one is in a comment, or two bytes are a letter
        lines = [1] * len(nodes)
    found = []
    for line, node in zip(lines, nodes, strict=True):
        label = (node.findtext("name") or "").strip()
        corners = [node.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        try:
            box = [float(corner or "") for corner in corners]
        except ValueError:
            label = ""
        if not label:
            raise UserError(f"{name}:{line}: an object needs a name, and bndbox with xmin, ymin, xmax, ymax as numbers")
        found.append(_Object(label, (node.findtext("difficult") or "").strip() == "1", box, line))
    height, width = (tree.findtext(f"size/{side}") or "" for side in ("height", "width"))
    return (int(height) if height.isdigit() else 0, int(width) if width.isdigit() else 0), found


def _coding(
    root: Path, masks: dict[str, str], classes: list[str], values: list[Value] | None, ignore: Value | None
) -> tuple[Coding, list[str]]:
    """What the values of the masks mean, and a note where that is concluded from the data."""
    names = ["background", *classes]
    if values is not None:
        return Coding(names, values, ignore), []
    codes = list(range(len(names)))
    if set(classes) <= set(CHALLENGE):
        # A part of the challenge's set has fewer classes, with their numbers of old.
        official = [0, *(1 + CHALLENGE.index(name) for name in classes)]
        seen = {code for found in look_at_masks(root, sorted(masks.values())).values() for code in found["values"]}
        codes = official if seen <= {*official, IGNORE} else codes
    said = [f"{code} {name}" for code, name in zip(codes, names, strict=True)]
    return Coding(names, codes, ignore), [f"values in masks: {some(said, 22)}"]
