"""Images and masks that are too large are refused by their names in every reader, before they are decoded."""

import inspect
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.utils import get_method
from inputs import write_coco, write_masks, write_yolo
from omegaconf import OmegaConf
from PIL import Image
from running import Outcome

from visiontune.config.compose import config_dir
from visiontune.data import polygons
from visiontune.data.bad_files import BadFiles
from visiontune.data.images import ImageDecoder
from visiontune.data.readers import coco, instance_masks, masks, torchvision, voc, yolo
from visiontune.data.readers.python_items import Items
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.data.verify import verify
from visiontune.errors import UserError

SIZE = (60_000, 40_000)
PROBLEM = "it has 60000 x 40000 pixels; data.max_pixels=180000000 is the limit. Write data.max_pixels=2400000000 to"


def write_bomb(path: Path) -> None:
    """A PNG whose header claims 2.4 gigapixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", *SIZE, 8, 0, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, b"IDAT", b"IEND")
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def read_masks(root: Path, **arguments: object) -> Source:
    return masks.read(root, classes=["a", "b"], **arguments)  # type: ignore[arg-type]


def read_instance_masks(root: Path, **arguments: object) -> Source:
    return instance_masks.read(root, classes=["a"], **arguments)  # type: ignore[arg-type]


def read_voc(root: Path, **arguments: object) -> Source:
    return voc.read(root, "images", None, "masks", None, classes=["a"], **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("read", [read_masks, read_instance_masks, read_voc])
def test_masks(tmp_path: Path, read: Callable[..., Source]) -> None:
    write_masks(tmp_path)
    assert len(read(tmp_path).samples) == 10
    with pytest.raises(UserError, match=r"images/0.jpg: it has 64 x 48 pixels; data.max_pixels=3071 is the limit"):
        read(tmp_path, max_pixels=3071)
    write_bomb(tmp_path / "masks/3.png")
    with pytest.raises(UserError, match=rf"^1 image under {tmp_path} cannot be read(.|\n)*masks/3.png: {PROBLEM}"):
        read(tmp_path)
    source = read(tmp_path, on_bad_image="skip")
    assert len(source.samples) == 9
    assert [f"masks/3.png ({PROBLEM}" in note for note in source.notes if "cannot be read" in note] == [True]


@pytest.mark.parametrize("read", [masks.read, instance_masks.read])
def test_a_lower_limit_reads_a_mask_again(tmp_path: Path, read: Callable[..., Source]) -> None:
    write_masks(tmp_path)
    Image.open(tmp_path / "masks/3.png").save(tmp_path / "masks/3.webp", lossless=True)  # counts three times
    (tmp_path / "masks/3.png").unlink()
    classes = ["a", "b"] if read is masks.read else ["a"]
    assert len(read(tmp_path, classes=classes).samples) == 10
    with pytest.raises(UserError, match=r"masks/3.webp: it has 64 x 48 pixels, and its decoder needs 3 times"):
        read(tmp_path, classes=classes, max_pixels=4000)


def test_masks_without_classes(tmp_path: Path) -> None:
    write_masks(tmp_path, count=3)
    write_bomb(tmp_path / "masks/0.png")
    with pytest.raises(UserError, match=r"^1 image under .* cannot be read(.|\n)*masks/0.png: it has 60000"):
        masks.read(tmp_path)
    with pytest.raises(UserError) as error:
        masks.read(tmp_path, on_bad_image="skip")
    message, note = str(error.value).split("\n")
    assert message.startswith("data.classes is not set: the masks have the values 0, 1. Write")
    assert note.startswith("note: 1 file cannot be read, so their samples are left out")
    for i in (1, 2):
        (tmp_path / f"masks/{i}.png").write_bytes(b"no mask")
    with pytest.raises(UserError, match=r"data.classes is not set: no mask can be read"):
        masks.read(tmp_path, on_bad_image="skip")


def test_no_image_is_left(tmp_path: Path, plan: Callable[..., Outcome]) -> None:
    write_masks(tmp_path, count=3)
    for i in range(3):
        (tmp_path / f"masks/{i}.png").write_bytes(b"no mask")
    keys = ["data=masks", "heads=segmentation", f"data.root={tmp_path}", "data.classes=[a,b]"]
    first, note = plan(*keys, "data.on_bad_image=skip").message.split("\n")
    assert first == "no sample of the data can be used"
    assert note.startswith("note: 3 files cannot be read") and "masks/0.png (not an image)" in note
    with pytest.raises(UserError, match=r"^no image of the data can be used\nnote: 3 files cannot be read"):
        verify(tmp_path, [Sample(f"masks/{i}.png", {}) for i in range(3)], bad=BadFiles("skip"))


def test_masks_of_torchvision(tmp_path: Path) -> None:
    write_masks(tmp_path, values=[1, 2, 3], count=3)
    pets = "masks", {1: "pet", 2: "background", 3: "border"}

    def add(**options: int) -> dict[str, TaskInfo]:
        samples = [Sample(f"images/{i}.jpg", {}) for i in range(3)]
        return torchvision._add_masks(samples, tmp_path, *pets, ImageDecoder(**options), BadFiles())  # type: ignore[arg-type]

    assert list(add(max_pixels=3072)) == ["segmentation"]
    with pytest.raises(UserError, match=r"^3 images under (.|\n)* data.max_pixels=3071"):
        add(max_pixels=3071)
    write_bomb(tmp_path / "masks/1.png")
    with pytest.raises(UserError, match=rf"masks/1.png: {PROBLEM}"):
        add()


def test_run_lengths_of_a_large_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(tmp_path, {"segmentation": {"size": [48, 64], "counts": [100, 60, 2912]}})
    document = json.loads((tmp_path / "a.json").read_text())
    document["annotations"][3]["segmentation"] = {"size": [*SIZE[::-1]], "counts": [0, 2_400_000_000]}
    document["images"][3]["file_name"] = "3.png"
    (tmp_path / "a.json").write_text(json.dumps(document))
    write_bomb(tmp_path / "3.png")
    with pytest.raises(UserError, match=rf"3.png: {PROBLEM}"):
        coco.read(tmp_path, "a.json")
    monkeypatch.setattr(polygons, "_run_lengths", _checked_size(polygons._run_lengths))
    assert len(coco.read(tmp_path, "a.json", on_bad_image="skip").samples) == 9


def _checked_size(parse: Callable) -> Callable:
    return lambda segmentation, size: parse(segmentation, size) if size == (48, 64) else pytest.fail(f"{size} decoded")


def test_images_with_boxes(tmp_path: Path) -> None:
    write_yolo(tmp_path, "names: [a]\n", count=2)
    (tmp_path / "images/val/val1.jpg").unlink()
    write_bomb(tmp_path / "images/val/val1.png")
    with pytest.raises(UserError, match=rf"images/val/val1.png: {PROBLEM}"):
        yolo.read(tmp_path)
    assert len(yolo.read(tmp_path, on_bad_image="skip").samples) == 3


@pytest.mark.parametrize("mode", ["full", "header"])
def test_every_check_refuses(tmp_path: Path, mode: str) -> None:
    write_bomb(tmp_path / "a.png")
    with pytest.raises(UserError, match=rf"a.png: {PROBLEM}"):
        verify(tmp_path, [Sample("a.png", {})], mode)


def test_images_of_a_dataset_in_python(tmp_path: Path) -> None:
    write_bomb(tmp_path / "a.png")
    items = Items([(Image.open(tmp_path / "a.png"), 0)], {}, True, ImageDecoder(), "data.dataset")
    with pytest.raises(UserError, match=rf"^data.dataset\[0\]: image: {PROBLEM}"):
        items.content(0)


def test_every_reader_gets_the_keys_of_all_data_sets() -> None:
    shared = set(OmegaConf.load(config_dir() / "data/common.yaml"))
    for file in (config_dir() / "data").glob("*.yaml"):
        if "reader" in (cfg := OmegaConf.load(file)):
            parameters = set(inspect.signature(get_method(cfg.reader["_target_"])).parameters)
            assert parameters & shared <= set(cfg.reader), file.name
