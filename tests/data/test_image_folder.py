"""Folders of classes, with and without splits, and everything that can be wrong with them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from visiontune.data import VisionData
from visiontune.data.readers.image_folder import read
from visiontune.errors import UserError

Make = Callable[..., VisionData]


def as_split_folders(photos: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    """The same images as `SPLIT/CLASS/*`: every third of each class to the next split."""
    root = photos.parent / "split"
    for folder in photos.iterdir():
        for i, path in enumerate(sorted(folder.iterdir())):
            target = root / splits[i % len(splits)] / folder.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return root


def as_lists(photos: Path, **lines: list[str]) -> None:
    (photos / "lists").mkdir()
    for split, names in lines.items():
        (photos / "lists" / f"{split}.txt").write_text("\n".join(names) + "\n")


def test_one_folder_a_class(photos: Path) -> None:
    source = read(photos)
    assert source.schema["classification"].classes == ["cat", "dog", "newt"]
    assert len(source.samples) == 40 and source.notes == []
    assert source.samples[0].path == "cat/cat0.png" and source.samples[-1].targets == {"classification": 2}
    nested = read(photos.parent, images="photos")
    assert nested.samples[0].path == "photos/cat/cat0.png"


@pytest.mark.parametrize("names", [("train", "val", "test"), ("train", "valid", "test"), ("Train", "Validation")])
def test_split_folders(photos: Path, names: tuple[str, ...]) -> None:
    source = read(as_split_folders(photos, names))
    assert source.schema["classification"].classes == ["cat", "dog", "newt"]
    assert {sample.split for sample in source.samples} == set(("train", "val", "test")[: len(names)])


def test_a_class_may_be_called_train(tmp_path: Path, picture: Callable[..., Path]) -> None:
    for i, name in enumerate(("car", "bus", "train")):
        picture(tmp_path / name / "1.png", i)
    assert read(tmp_path).schema["classification"].classes == ["bus", "car", "train"]


def test_train_and_val_alone_have_no_test(photos: Path, make: Make) -> None:
    root = as_split_folders(photos, ("train", "val"))
    data = make("data=image_folder", f"data.root={root}", "data.image_size=16")
    assert data.samples("test") == [] and data.test_dataloader() == [] and len(data.samples("train")) == 20
    with pytest.raises(UserError, match="no test split"):
        data.eval_loader("test")


def test_lists_name_pictures_in_many_ways(photos: Path) -> None:
    as_lists(photos, train=["cat/cat0.png", "cat/cat1", "dog3", "", "./newt/newt0.png"], val=["newt1.png"[:-4], "dog0"])
    source = read(photos, splits="lists")
    said = {sample.path: sample.split for sample in source.samples}
    assert said == {
        "cat/cat0.png": "train",
        "cat/cat1.png": "train",
        "dog/dog3.png": "train",
        "newt/newt0.png": "train",
        "dog/dog0.png": "val",
        "newt/newt1.png": "val",
    }
    assert source.notes == [f"34 images are in no list in {photos / 'lists'}, and left out"]


def test_lists_relative_to_the_images(photos: Path) -> None:
    as_lists(photos, train=["photos/cat/cat0.png", "dog/dog1.png"])
    source = read(photos.parent, images="photos", splits="photos/lists")
    assert [sample.path for sample in source.samples] == ["photos/cat/cat0.png", "photos/dog/dog1.png"]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["cat0", "unicorn"]}, r"train\.txt:2: 'unicorn': no such image"),
        ({"train": ["cat0"], "test": ["dog0", "cat/cat0.png"]}, r"test\.txt:2: cat/cat0\.png is already in .*train"),
        ({"val": ["cat0"]}, r"has no train\.txt"),
    ],
)
def test_lists_that_do_not_fit(photos: Path, lists: dict[str, list[str]], message: str) -> None:
    as_lists(photos, **lists)
    with pytest.raises(UserError, match=message):
        read(photos, splits="lists")


def test_a_stem_must_mean_one_picture(photos: Path, picture: Callable[..., Path]) -> None:
    picture(photos / "dog" / "cat0.png", 77)
    as_lists(photos, train=["cat0"])
    with pytest.raises(UserError, match=r"train\.txt:1: 'cat0': 2 images have this name"):
        read(photos, splits="lists")


def test_other_files_are_left_out_and_said(photos: Path, picture: Callable[..., Path], make: Make) -> None:
    for path in ("cat/Thumbs.db", "dog/.DS_Store", "cat/._cat0.png"):
        (photos / path).write_bytes(b"x")
    picture(photos / "lonely.png", 50)
    data = make("data=image_folder", f"data.root={photos}", "data.image_size=16")
    assert sum(len(data.samples(split)) for split in ("train", "val", "test")) == 40
    assert data.notes == [
        f"1 image without class folder in {photos} is left out: lonely.png",
        f"3 hidden and system files and folders in {photos} are left out: cat/._cat0.png, cat/Thumbs.db, dog/.DS_Store",
    ]


def test_groups_by_pattern(photos: Path, make: Make) -> None:
    # Number modulo ten, over all classes: cat3, cat13, dog3, dog13 and newt3 belong together.
    data = make("data=image_folder", f"data.root={photos}", r"data.group_pattern='(\d)\.png'", "data.image_size=16")
    splits: dict[str, set[str]] = {}
    for row in data.splits_rows():
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == 10 and all(len(where) == 1 for where in splits.values())
    with pytest.raises(UserError, match=r"does not match .*cat/cat0\.png.*An example"):
        read(photos, group_pattern="(patient)")
    with pytest.raises(UserError, match="not a regular expression with a group"):
        read(photos, group_pattern="cat|dog|newt")


def bad(make: Make, root: Path | str, *overrides: str) -> str:
    """The message for this root; one message, and nothing but a UserError."""
    with pytest.raises(UserError) as error:
        make("data=image_folder", f"data.root={root}", "data.image_size=16", *overrides)
    return str(error.value)


def test_missing_root(tmp_path: Path, make: Make) -> None:
    assert f"the folder {tmp_path / 'nowhere'} does not exist" in bad(make, tmp_path / "nowhere")
    assert "data.root is not set" in bad(make, "null")
    assert "data.images: the folder" in bad(make, tmp_path, "data.images=nowhere")


def test_empty_folder(tmp_path: Path, make: Make) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no images. Expected one folder per class" in bad(make, tmp_path / "empty")


def test_a_class_without_pictures(photos: Path, make: Make) -> None:
    (photos / "yeti").mkdir()
    assert bad(make, photos).startswith(f"class 'yeti' has no images in {photos}")


def test_a_single_class(photos: Path, make: Make) -> None:
    for name in ("dog", "newt"):
        shutil.rmtree(photos / name)
    assert "has a single class, 'cat'" in bad(make, photos)


def test_a_class_in_val_that_train_lacks(photos: Path, make: Make) -> None:
    root = as_split_folders(photos)
    shutil.rmtree(root / "train" / "newt")
    assert bad(make, root).startswith("class 'newt' is in val and test but not in train: nothing to learn it from")


@pytest.mark.parametrize("kind", ["truncated", "text", "empty"])
def test_files_that_are_no_pictures(photos: Path, make: Make, kind: str) -> None:
    path = photos / "cat" / "broken.jpg"
    Image.open(photos / "cat" / "cat0.png").resize((200, 200)).save(path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"not an image at all", "empty": b""}[kind])
    message = bad(make, photos)
    assert message.startswith(
        f"1 image under {photos} cannot be read; repair or remove, or write data.on_bad_image=skip:\n  cat/broken.jpg: "
    )
    assert {"truncated": "truncated", "text": "not an image", "empty": "the file is empty"}[kind] in message


def test_more_samples_a_class_than_there_are(photos: Path, make: Make) -> None:
    assert "data.per_class=5: class 'newt' has 4 training samples" in bad(make, photos, "data.per_class=5")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.labelled=0.01", "nothing to learn it from. Write a larger share, such as data.labelled=0.1."),
        (r"data.group_pattern='(newt\d+)?'", "does not match cat/cat0.png"),
        ("+data.batchsize=3", "data.batchsize: unknown key; did you mean data.batch_size?"),
    ],
)
def test_values_that_make_no_sense(photos: Path, make: Make, override: str, message: str) -> None:
    assert message in bad(make, photos, override)
