"""VOC files as tools write them: namespaces, encodings, flags, entities, and a selection of classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inputs import write_image
from PIL import Image

from visiontune.data.readers.voc import read
from visiontune.data.schema import Source
from visiontune.errors import UserError

BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
OBJECT = f"<object><name>a</name>{BOX}</object>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voc")
    for i in range(2):
        write_image(root / "JPEGImages" / f"{i}.jpg")
    return root


@pytest.fixture
def load(folder: Path) -> Callable[..., Source]:
    """`load(xml)`: read two images; the first has this XML file, the second one box of class a."""

    def run(xml: str | bytes, **arguments: Any) -> Source:
        (folder / "Annotations").mkdir(exist_ok=True)
        data = xml if isinstance(xml, bytes) else xml.encode()
        (folder / "Annotations" / "0.xml").write_bytes(data)
        (folder / "Annotations" / "1.xml").write_text(f"<annotation>{OBJECT}</annotation>")
        return read(folder, **{"splits": None} | arguments)

    return run


def boxes(source: Source) -> list[list[list[float]]]:
    return [sample.targets["detection"].boxes.tolist() for sample in source.samples]


@pytest.mark.parametrize(
    "xml",
    [
        f'<annotation xmlns="http://example.org/voc">{OBJECT}</annotation>',
        f'<v:annotation xmlns:v="urn:voc">{OBJECT.replace("<", "<v:").replace("<v:/", "</v:")}</v:annotation>',
        f"<Annotation>{OBJECT.replace('object', 'Object')}</Annotation>",
        f'<!DOCTYPE annotation SYSTEM "voc.dtd">\n<annotation>{OBJECT}</annotation>',
        f"\n\n<?xml version='1.0'?><annotation><objects>{OBJECT}</objects></annotation>\n",
        f"<annotation>{OBJECT.replace('1<', '1.0<').replace('20', ' 2e1 ')}</annotation>",
        f"<annotation>{OBJECT.replace('</object>', f'<part><name>head</name>{BOX}</part></object>')}</annotation>",
        f"<annotation>{OBJECT}</annotation>".encode("utf-16"),
        f'<?xml version="1.0" encoding="UTF-16"?><annotation>{OBJECT}</annotation>'.encode(),
    ],
)
def test_forms_of_the_file(load: Callable[..., Source], xml: str | bytes) -> None:
    source = load(xml)
    assert boxes(source) == [[[1, 1, 20, 20]]] * 2 and source.schema["detection"].classes == ["a"]
    assert source.notes == []


@pytest.mark.parametrize(
    ("declared", "encoding", "noted"),
    [
        ("utf-8", "cp1252", True),
        ("iso-8859-1", "utf-8", False),
        ("gb2312", "gb2312", False),
        ("none-1", "utf-8", False),
    ],
)
def test_encodings(load: Callable[..., Source], declared: str, encoding: str, noted: bool) -> None:
    name = "鸟" if encoding == "gb2312" else "Vögel"
    xml = f'<?xml version="1.0" encoding="{declared}"?><annotation>{OBJECT.replace(">a<", f">{name}<")}</annotation>'
    source = load(xml.encode(encoding))
    assert source.schema["detection"].classes == sorted(["a", name])
    note = "1 XML file is not UTF-8, and read as Windows-1252: Annotations/0.xml"
    assert source.notes == [note] * noted


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (f"{BOMB}<annotation>{OBJECT.replace('>a<', '>&b;<')}</annotation>", "0.xml:1: XML entities are not read"),
        (f"<annotation>\n{OBJECT.replace('<name>a</name>', '')}</annotation>", "0.xml:2: an object needs a name, and"),
        (f"<annotation>\n{OBJECT.replace('bndbox', 'robndbox')}</annotation>", "0.xml:2: an object needs a name, and"),
        ("<annotations><image/></annotations>", "0.xml: expected a VOC file with the root <annotation>, got <annotat"),
        ("", "0.xml:1: broken XML (no element found)"),
        (b"\x00\x01\x02", "0.xml: not a text file, or in an unknown encoding"),
        (f"<annotation>{OBJECT}{'<a>' * 50_000}", "0.xml:1: broken XML (no element found)"),
        (
            f"<annotation>{OBJECT.replace('</name>', '</name><difficult>maybe</difficult>')}</annotation>",
            "0.xml:1: difficult is 'maybe': expected 0 or 1",
        ),
        (
            f"<annotation>{OBJECT.replace('>1<', '>30<')}</annotation>",
            "1 of 2 boxes cannot be used. Repair them, or write data.on_bad_box=drop (leave them out) or "
            "data.on_bad_box=clip (cut them at their image's edge):\n  Annotations/0.xml:1: box 30, 30, 20, 20 has no",
        ),
    ],
)
def test_files_that_are_refused(load: Callable[..., Source], xml: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        load(xml)
    assert str(error.value).removeprefix("Annotations/").startswith(message)


def test_difficult_flags(load: Callable[..., Source]) -> None:
    flags = ["1", "0", "true", "Unspecified", "", " 1 "]
    objects = "".join(OBJECT.replace("</name>", f"</name><difficult>{flag}</difficult>") for flag in flags)
    source = load(f"<annotation>{objects}</annotation>")
    assert source.samples[0].targets["detection"].crowd == [True, False, True, False, False, True]
    assert source.notes[1:] == ["3 difficult objects are ignored by metrics (data.difficult=ignore)"]


def test_some_classes_of_boxes_and_masks(load: Callable[..., Source], folder: Path) -> None:
    others = [OBJECT.replace(">a<", f">{name}<") for name in ("b", "c")]
    difficult = others[0].replace("</name>", "</name><difficult>1</difficult>")
    xml = f"<annotation>{OBJECT}{''.join(others)}{difficult}</annotation>"
    masks = folder / "SegmentationClass"
    masks.mkdir()
    Image.fromarray(np.tile(np.arange(4, dtype=np.uint8), (48, 16))).save(masks / "0.png")
    source = load(xml, include=["c", "a"])
    assert source.schema["detection"].classes == ["a", "c"] and source.samples[0].targets["detection"].labels == [0, 1]
    assert source.notes[0] == "2 objects of other classes are background (data.include): 2 b"
    assert source.schema["segmentation"].classes == ["background", "a", "c"]
    target = source.samples[0].targets["segmentation"]
    assert target.labels == [0, 1, 2] and target.load((48, 64))[0, :4].tolist() == [0, 1, 0, 2]
    (masks / "0.png").write_bytes(b"no image")  # detection does not need it
    assert list(load(xml, tasks=["detection"]).schema) == ["detection"]
    (masks / "0.png").unlink()
    masks.rmdir()


def test_segmentation_needs_no_boxes(load: Callable[..., Source], folder: Path) -> None:
    masks = folder / "masks"
    masks.mkdir()
    Image.fromarray(np.tile(np.arange(2, dtype=np.uint8), (48, 32))).save(masks / "0.png")
    xml = "<annotation><object><name>a</name></object></annotation>"
    source = load(xml, masks="masks", tasks=["segmentation"])
    assert list(source.schema) == ["segmentation"] and source.samples[0].targets["segmentation"].labels == [0, 1]
