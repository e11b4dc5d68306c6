"""One XML file of Pascal VOC, as tools write it: with or without namespaces, in any encoding."""

import re
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from visiontune.data.text import decode_text, normalized, to_pixels
from visiontune.errors import UserError

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
    """The objects of an image, its annotated size (H, W) with 0 where it is missing, and the encoding of the file."""

    objects: list[VocObject]
    size: tuple[int, int]
    encoding: str


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
    objects = []
    for node in tree.iter("object"):
        line = lines[node]
        label = normalized((node.findtext("name") or "").strip())
        corners = [node.findtext(f"bndbox/{corner}") or "" for corner in CORNERS] if boxes else []
        try:
            box = [float(corner) for corner in corners]
        except ValueError:
            label = ""
        if not label:
            raise UserError(f"{name}:{line}: an object needs a name, and bndbox with xmin, ymin, xmax, ymax as numbers")
        flag = (node.findtext("difficult") or "").strip().lower()
        if flag not in YES | NO:
            raise UserError(f"{name}:{line}: difficult is {flag!r:.40}: expected 0 or 1")
        objects.append(VocObject(label, flag in YES, box, line))
    size = to_pixels(tree.findtext("size/height")), to_pixels(tree.findtext("size/width"))
    return VocAnnotation(objects, size, encoding)


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
