"""One XML file of Pascal VOC, as tools write it: with or without namespaces, in any encoding."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from visiontune.data.text import decode_text, match_key, normalized, to_pixels
from visiontune.errors import UserError, pluralize, some

DECLARED_ENCODING = re.compile(rb"""\s*<\?xml[^>]*\sencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]*)["']""")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
YES, NO = {"1", "true", "yes"}, {"", "0", "false", "no", "unspecified"}


class VocObject(NamedTuple):
    """An object with its box x1, y1, x2, y2, and its line in the file."""

    name: str
    difficult: bool
    box: list[float]
    line: int


class VocAnnotation(NamedTuple):
    """The content of a file.

    Attributes:
        size: annotated (H, W) of the image, 0 where it is missing.
        encoding: of the file.
        image: the name of the image that the file gives; empty if it is missing.
        deleted: objects with `<deleted>1</deleted>`, as LabelMe writes.
        nested: objects inside others, such as parts.
    """

    objects: list[VocObject]
    size: tuple[int, int]
    encoding: str
    image: str
    deleted: int
    nested: int


def read_xml(path: Path, name: str, boxes: bool = True) -> VocAnnotation:
    """Read an XML file.

    Args:
        name: of the file, for messages.
        boxes: whether boxes are needed; otherwise objects have only their name.

    Raises:
        UserError: the file is not XML, defines entities, is not an annotation, or an object lacks its name or box.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error})") from error
    declared = DECLARED_ENCODING.match(data)
    text, encoding = decode_text(data, name, declared[1].decode() if declared else None)
    tree, lines = _parse(text, name)
    if tree.tag != "annotation":
        raise UserError(f"{name}: expected a VOC file with the root <annotation>, got <{tree.tag:.40}>")
    objects: list[VocObject] = []
    nested: set[Element] = set()
    deleted = 0
    for node in tree.iter("object"):
        line = lines[node]
        if node in nested:
            continue
        nested.update(inner for inner in node.iter("object") if inner is not node)
        if _flag(node, "deleted", f"{name}:{line}"):
            deleted += 1
            continue
        if boxes and (count := len(node.findall("bndbox"))) > 1:
            raise UserError(f"{name}:{line}: an object has {count} bndbox: write an object for each")
        label = normalized((node.findtext("name") or "").strip())
        corners = [node.findtext(f"bndbox/{corner}") or "" for corner in CORNERS] if boxes else []
        try:
            box = [float(corner) for corner in corners]
        except ValueError:
            label = ""
        if not label:
            raise UserError(f"{name}:{line}: an object needs a name, and bndbox with xmin, ymin, xmax, ymax as numbers")
        objects.append(VocObject(label, _flag(node, "difficult", f"{name}:{line}"), box, line))
    size = to_pixels(tree.findtext("size/height")), to_pixels(tree.findtext("size/width"))
    image = (tree.findtext("filename") or "").strip()
    return VocAnnotation(objects, size, encoding, image, deleted, len(nested))


def file_notes(
    annotations: Mapping[str, VocAnnotation], files: Mapping[str, str], images: Collection[str]
) -> list[str]:
    """Notes on what files contain beside their objects.

    Args:
        annotations: image -> content of its file.
        files: image -> name of its file.
        images: all images of the data.
    """
    stems = {match_key(PurePosixPath(path).stem) for path in images}
    others: list[str] = []
    for path, content in annotations.items():
        image = PurePosixPath(content.image.replace("\\", "/"))
        names = {match_key(image.name), match_key(image.stem)}
        if names & stems and match_key(PurePosixPath(path).stem) not in names:
            others.append(f"{files[path]} ({image.name})")
    kinds = {
        ("file is", "files are", "not UTF-8, and read as Windows-1252"): [
            files[path] for path, content in annotations.items() if content.encoding == "cp1252"
        ],
        (
            "file names",
            "files name",
            "another image in <filename>; the image with the stem of the file is used",
        ): others,
        ("file has", "files have", "deleted objects, which are left out (<deleted>1</deleted>)"): [
            f"{files[path]} ({content.deleted})" for path, content in annotations.items() if content.deleted
        ],
        ("file has", "files have", "objects inside objects, which are left out"): [
            f"{files[path]} ({content.nested})" for path, content in annotations.items() if content.nested
        ],
    }
    return [
        f"{pluralize(len(places), f'XML {singular}', f'XML {plural}')} {what}: {some(places)}"
        for (singular, plural, what), places in kinds.items()
        if places
    ]


def _flag(node: Element, key: str, location: str) -> bool:
    flag = (node.findtext(key) or "").strip().lower()
    if flag not in YES | NO:
        raise UserError(f"{location}: {key} is {flag!r:.40}: expected 0 or 1")
    return flag in YES


def _parse(text: str, name: str) -> tuple[Element, dict[Element, int]]:
    """The tree, with tags in lower case and without namespaces, and the line of each element."""
    builder, lines = TreeBuilder(), {}
    parser = expat.ParserCreate("utf-8")  # instead of the declared encoding, which may be wrong
    parser.buffer_text = True

    def start(tag: str, _: dict[str, str]) -> None:
        element = builder.start(tag.rpartition(":")[2].lower(), {})
        lines[element] = parser.CurrentLineNumber

    def end(tag: str) -> None:
        builder.end(tag.rpartition(":")[2].lower())

    def refuse(*_: object) -> None:
        raise UserError(f"{name}:{parser.CurrentLineNumber}: XML entities are not read; write their text instead")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = parser.SkippedEntityHandler = refuse
    try:
        parser.Parse(text.strip().encode(), True)
    except UnicodeEncodeError as error:
        raise UserError(f"{name}: broken XML (characters that are not Unicode)") from error
    except expat.ExpatError as error:
        raise UserError(f"{name}:{error.lineno}: broken XML ({expat.ErrorString(error.code)})") from error
    return builder.close(), lines
