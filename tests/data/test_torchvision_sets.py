"""The sets that torchvision knows, generated in their true layouts under the root."""

import gzip
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from visiontune.data import VisionData
from visiontune.data.readers.torchvision import SETS, read
from visiontune.errors import UserError

Make = Callable[..., VisionData]


def write_idx(folder: Path, train: int = 60, test: int = 20, packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = labels
        for what, array in (("images", images), ("labels", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            name = f"{prefix}-{what}-idx{array.ndim}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))
            else:
                (folder / name).write_bytes(header + array.tobytes())


@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "raw", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_from_idx_files(tmp_path: Path, make: Make, place: str, packed: bool) -> None:
    write_idx(tmp_path / place, packed=packed)
    data = make("data=torchvision", "data.name=MNIST", f"data.root={tmp_path}", "data.image_size=28", "data.channels=1")
    assert data.schema["classification"].classes == [str(digit) for digit in range(10)]
    assert [len(data.samples(split)) for split in ("train", "val", "test")] == [49, 11, 20]
    assert data.notes == ["the data set has no val split: 11 training samples become val"]
    batch = next(iter(data.eval_loader("test")))
    assert batch["image"].shape == (20, 1, 28, 28) and batch["path"][0] == "MNIST/test/00000"
    assert (255 * batch["image"][:, 0, 0, 0]).round().tolist() == batch["targets"]["classification"]


def test_torchvision_reads_the_same(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    theirs = datasets.MNIST(tmp_path, train=True)
    ours = [sample for sample in read(tmp_path, "MNIST").samples if sample.split == "train"]
    assert all(bool((a.image[0] == b).all()) for a, b in zip(ours, theirs.data, strict=True))
    assert [sample.targets["classification"] for sample in ours] == theirs.targets.tolist()


def test_a_limited_mnist(tmp_path: Path, make: Make) -> None:
    write_idx(tmp_path, train=300)
    overrides = ["data=torchvision", "data.name=MNIST", f"data.root={tmp_path}", "data.image_size=28"]
    data = make(*overrides, "data.limit_train=50")
    assert set(data.counts()["train"]["classification"].values()) == {5}
    assert len(data.samples("test")) == 20


def test_a_damaged_idx_file(tmp_path: Path) -> None:
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="train-images-idx3-ubyte is not a complete IDX file"):
        read(tmp_path, "MNIST")


def test_pets_stay_files(tmp_path: Path, make: Make, picture: Callable[..., Path]) -> None:
    base = tmp_path / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for part, first in (("trainval", 1), ("test", 21)):
        lines = []
        for label, name in enumerate(["Abyssinian", "Bengal", "great_pyrenees"], start=1):
            for i in range(first, first + 8):
                picture(base / "images" / f"{name}_{i}.jpg", 100 * label + i)
                lines.append(f"{name}_{i} {label} 1 1")
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
    data = make("data=torchvision", "data.name=OxfordIIITPet", f"data.root={tmp_path}", "data.image_size=16")
    assert data.schema["classification"].classes == ["Abyssinian", "Bengal", "Great Pyrenees"]
    assert data.samples("test")[0].path == "oxford-iiit-pet/images/Abyssinian_21.jpg"
    assert data.samples("test")[0].image is None and data.samples("test")[0].content
    assert [len(data.samples(split)) for split in ("train", "val", "test")] == [20, 4, 24]


def test_sets_in_memory_with_any_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        classes = ("sky", "sea")
        shape: tuple[int, ...]

        def __init__(self, root: Path, train: bool = True, split: str = "") -> None:
            self.data = np.full(self.shape, 9, dtype=np.uint8)
            self.targets = [0, 1] * 3

    for name, shape in (("CIFAR10", (6, 32, 32, 3)), ("SVHN", (6, 3, 32, 32)), ("USPS", (6, 16, 16))):
        Fake.shape = shape
        monkeypatch.setattr(datasets, name, Fake)
        source = read(tmp_path, name)
        assert Counter(sample.split for sample in source.samples) == {"train": 6, "test": 6}
        image = source.samples[0].image
        assert image is not None and image.shape[0] == (1 if name == "USPS" else 3) and image.shape[1] == image.shape[2]
        assert source.samples[0].path == f"{name}/train/00000"


def test_every_name_is_torchvisions() -> None:
    assert all(hasattr(datasets, name) for name in SETS)


def test_a_set_that_is_not_there(tmp_path: Path, make: Make) -> None:
    overrides = ["data=torchvision", f"data.root={tmp_path / 'none'}"]
    with pytest.raises(UserError, match=r"DTD is not under data\.root=.*write data\.download=true"):
        make(*overrides, "data.name=DTD", "data.download=false")
    with pytest.raises(UserError, match=r"data\.name=CIFAR: unknown data set\. Did you mean data\.name=CIFAR10"):
        make(*overrides, "data.name=CIFAR")
    with pytest.raises(UserError, match=r"data\.name=None: unknown data set"):
        make(*overrides)
    with pytest.raises(UserError, match=r"data\.root is not set: .* such as data\.root=data"):
        make("data=torchvision", "data.root=null", "data.name=DTD")
    assert not (tmp_path / "none").exists()


def test_a_download_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(root: Path, download: bool = False, **_: object) -> None:
        raise (OSError("no route to host") if download else RuntimeError("not found"))

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    with pytest.raises(UserError, match=r"could not be downloaded \(no route to host\)"):
        read(tmp_path, "CIFAR10")
