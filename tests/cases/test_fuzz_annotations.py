"""Damaged annotation files: each is used rightly, or refused with a message that names it."""

import copy
import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inputs import write_coco, write_image, write_yolo

from visiontune.data.readers import coco, voc, yolo
from visiontune.data.schema import Source
from visiontune.errors import UserError

COUNT = 500  # files of each format
SIZE = (48, 64)
MEMORY = 500_000  # kilobytes above those at the start
WORDS = [
    "", " ", "null", "nan", "-inf", "1e999", "1e308", "-1", "0", "1", "9" * 30, "0.5", "~", "*", "&", "'", '"', "é",
    "../..", "/", "~nobody/x", "C:\\x", "\0", "\ud800", "a" * 5000, "[", "{", "<x>", "&a;", ":", "#", "\t", ",", "!!x",
]  # fmt: skip
VALUES: list[Any] = [None, True, False, 0, 1, -1, 2, 10**9, 10**30, 0.5, 1e308, float("nan"), float("inf"), [], {}]
VALUES += [[[]], [[[1]]], [1, 2, 3, 4], ["a"], {"size": [10**9, 10**9], "counts": [10**18]}, *WORDS]
VALUES += [
    {"size": [48, 64], "counts": text} for text in ("e:?Q1" + "0" * 40, "\x7f" * 9, [3072], [10**12], ["1"], "é", 5)
]
VALUES += [[[1e9, 1e9, 2e9, 1e9, 2e9, 2e9]], [[1, 1, 5, 1, 5, float("inf")]], [[0] * 6], [["5"] * 8], [[1, 2]] * 5]

XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation>
  <size><width>64</width><height>48</height><depth>3</depth></size>
  <object><name>cup</name><difficult>0</difficult>
    <bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>30</ymax></bndbox></object>
  <object><name>plate</name><difficult>1</difficult>
    <bndbox><xmin>15</xmin><ymin>16</ymin><xmax>45</xmax><ymax>40</ymax></bndbox></object>
</annotation>
"""


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, delete, repeat or insert bytes, or cut the end off."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(damaged) + 1), rng.randint(1, 20)
        match rng.randrange(5):
            case 0:
                for place in range(at, min(at + length, len(damaged))):
                    damaged[place] ^= 1 << rng.randrange(8)
            case 1:
                del damaged[at : at + length]
            case 2:
                damaged[at:at] = damaged[at : at + length] * rng.randint(1, 50)
            case 3:
                damaged[at:at] = rng.randbytes(length)
            case _:
                del damaged[at:]
    return bytes(damaged)


def damage_words(data: bytes, rng: random.Random) -> bytes:
    """Replace words of a text."""
    words = data.decode().replace(">", "> ").replace("<", " <").split(" ")
    for _ in range(rng.randint(1, 3)):
        words[rng.randrange(len(words))] = rng.choice([*WORDS, rng.choice(words)])
    return " ".join(words).encode("utf-8", "surrogatepass")


def damage_values(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove or swap values of a JSON document."""
    document = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(document))
        parent, key = rng.choice(places)
        match rng.randrange(4):
            case 0:
                del parent[key]
            case 1:
                other, other_key = rng.choice(places)
                parent[key] = copy.deepcopy(other[other_key])
            case _:
                parent[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(document).encode()


def _places(node: Any) -> Any:
    """(container, key) of every value in a document."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield node, key
        yield from _places(value)


def write_voc(root: Path) -> Path:
    for i in range(3):
        write_image(root / "JPEGImages" / f"{i}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{i}.xml").write_text(XML)
    return root


def write_polygons(root: Path) -> Path:
    write_yolo(root, "nc: 2\nnames: {0: cup, 1: off}\n", count=2)
    (root / "labels/train/train0.txt").write_text("0 0.5 0.5 0.4 0.4\n1 0.1 0.2 0.9 0.2 0.9 0.8 0.5 0.9\n")
    return root


OUTLINE = {"segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
FORMATS: dict[str, tuple[Callable[[Path], Path], Callable[..., Source], list[str], dict[str, Any]]] = {
    "coco": (lambda root: write_coco(root, OUTLINE, count=3), coco.read, ["a.json"], {"annotations": "a.json"}),
    "voc": (write_voc, voc.read, ["Annotations/1.xml"], {"splits": None}),
    "yolo": (write_polygons, yolo.read, ["labels/train/train0.txt", "data.yaml"], {}),
}


def check(source: Source) -> None:
    """Every target loads, with boxes in the image, labels of the schema and a mask for each box."""
    assert source.samples
    for sample in source.samples:
        for task, stored in sample.targets.items():
            target = stored.load(SIZE)
            boxes = target["boxes"]
            assert ((boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= 0) if len(boxes) else True
            assert (boxes[:, 2] <= SIZE[1]).all() and (boxes[:, 3] <= SIZE[0]).all()
            labels = target["labels"].tolist()
            assert len(labels) == len(boxes) and set(labels) <= set(range(len(source.schema[task].classes)))
            if task == "instances":
                assert target["masks"].shape == (len(boxes), *SIZE)
    for info in source.schema.values():
        assert len(set(info.classes)) == len(info.classes)
        "".join(info.classes).encode()  # tables and reports can name them


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    write, read, files, arguments = FORMATS[name]
    root = write(tmp_path / name)
    contents = {file: (root / file).read_bytes() for file in files}
    rng = random.Random(16)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"used": 0, "refused": 0}
    for number in range(COUNT):
        file = rng.choice(files)
        damages = [damage_bytes, damage_values if file.endswith(".json") else damage_words]
        (root / file).write_bytes(data := rng.choice(damages)(contents[file], rng))
        options = {"on_bad_box": rng.choice(["error", "clip", "drop"])}
        options |= {} if name == "yolo" else {"tasks": rng.choice([None, ["detection"]])}
        started = time.perf_counter()
        message = ""
        try:
            check(read(root, **arguments, **options))
        except UserError as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"file {number}, {options}: {data!r}") from error
        outcomes["refused" if message else "used"] += 1
        assert not message or any(Path(each).name in message for each in files), (number, message, data)
        assert time.perf_counter() - started < 20, (number, data)
        (root / file).write_bytes(contents[file])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY
    assert min(outcomes.values()) > COUNT / 20, outcomes
