"""Folders as people have them: links, hidden and system folders, Unicode forms, in every reader."""

import os
import signal
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
from inputs import write_coco, write_folders, write_image, write_masks, write_yolo
from running import Outcome

from visiontune.data.readers import coco, groups, image_folder, instance_masks, masks, voc, yolo
from visiontune.data.schema import Source
from visiontune.data.walk import walk, walk_each
from visiontune.errors import UserError

NFD, NFC = (unicodedata.normalize(form, "Café") for form in ("NFD", "NFC"))
JUNK = (
    ".ipynb_checkpoints/00-checkpoint.png",
    ".git/objects/ab.png",
    "@eaDir/00.png/THUMB_M.jpg",
    "#recycle/00.png",
    "__MACOSX/._00.png",
    "$RECYCLE.BIN/00.png",
    "System Volume Information/00.png",
    "lost+found/00.png",
    ".thumbnails/00.png",
    "._00.png",
    "Thumbs.db",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "photos", count=3)


def paths(source: Source) -> list[str]:
    return [sample.path for sample in source.samples]


def classes(source: Source) -> dict[str, str]:
    """path -> class of each sample."""
    names = source.schema["classification"].classes
    return {sample.path: names[sample.targets["classification"]] for sample in source.samples}


def add_junk(folder: Path) -> None:
    for name in JUNK:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not an image")


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


def test_a_walk_sorts_visible_files_of_any_depth(root: Path) -> None:
    write_image(root / "cat/kittens/black/9.JPG")
    (root / "cat/notes.txt").write_text("x")
    add_junk(root / "cat")
    result = walk(root / "cat")
    names = ["00.png", "01.png", "02.png", "kittens/black/9.JPG", "notes.txt"]
    assert result.files == [root / "cat" / name for name in names]
    assert result.images == result.files[:4]
    assert result.notes == [
        f"{len(JUNK)} hidden and system files and folders in {root / 'cat'} are left out: "
        "#recycle, $RECYCLE.BIN, ._00.png, ..."
    ]
    assert walk(root, without=[root / "cat"]).files == [root / f"dog/0{i}.png" for i in range(3)]


def test_a_hidden_root_is_read(tmp_path: Path) -> None:
    write_folders(tmp_path / ".cache/@eaDir", count=2)
    assert len(walk(tmp_path / ".cache/@eaDir").files) == 4


@pytest.mark.parametrize(
    "links",
    [
        {"cat/all": ".."},
        {"cat/self": "self"},
        {"cat/here": "."},
        {"cat/up": "../.."},
        {"cat/dogs": "../dog", "dog/cats": "../cat"},
        {"cat/all": "..", "dog/all": ".."},
        {"all": "."},
        {"cat/gone": "nowhere", "dog/gone.png": "../nowhere/1.png"},
        {"cat/again.png": "00.png"},
        {"cat/dog.png": "../dog/00.png"},
    ],
)
def test_each_image_once_whatever_the_links(root: Path, links: dict[str, str]) -> None:
    expected = {f"{name}/0{i}.png": name for name in ("cat", "dog") for i in range(3)}
    for link, target in links.items():
        os.symlink(target, root / link)
    source = image_folder.read(root)
    assert classes(source) == expected
    assert len(source.notes) == 1 and "link" in source.notes[0]
    assert all(link in source.notes[0] for link in links)


def test_links_to_folders_and_files_elsewhere_are_followed(root: Path, tmp_path: Path) -> None:
    """Each class is a link; each image is a link, as DVC, git-annex and Hugging Face's cache write them."""
    (tmp_path / "linked").mkdir()
    for name in ("cat", "dog"):
        os.symlink(root / name, tmp_path / "linked" / name)
        (tmp_path / "files" / name).mkdir(parents=True)
        for i in range(3):
            target = tmp_path / f".store/{name}{i}"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes((root / f"{name}/0{i}.png").read_bytes())
            os.symlink(os.path.relpath(target, tmp_path / "files" / name), tmp_path / f"files/{name}/0{i}.png")
    for folder in ("linked", "files"):
        source = image_folder.read(tmp_path / folder)
        assert classes(source) == classes(image_folder.read(root)) and source.notes == []


def test_links_between_linked_classes_do_not_mix_them(root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    for name, other in (("cat", "dog"), ("dog", "cat")):
        os.symlink(root / name, tmp_path / "linked" / name)
        os.symlink(root / other, root / name / "other")
    assert classes(image_folder.read(tmp_path / "linked")) == classes(image_folder.read(root))


@pytest.mark.parametrize(
    "links",
    [
        {"cat/x.png": "../../pool/1.png", "dog/y.png": "../../pool/1.png"},
        {"cat/x": "../../pool", "dog/y": "../../pool"},
        {"cat/x.png": "../../pool/1.png", "dog/y": "../../pool"},
        {"newt": "cat"},
        {"newt": "../pool", "toad": "../pool"},
    ],
)
def test_links_that_contradict_each_other(root: Path, tmp_path: Path, links: dict[str, str]) -> None:
    write_image(tmp_path / "pool/1.png")
    for link, target in links.items():
        os.symlink(target, root / link)
    message = refused(lambda: image_folder.read(root))
    assert "are the same" in message and "remove one of the links" in message
    first, second = [*links, "cat"][:2]
    assert str(root / first) in message and str(root / second) in message


def test_splits_must_not_share_files(root: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    copytree(root, tmp_path / "set/train")
    os.symlink("train", tmp_path / "set/val")
    assert "are the same folder" in refused(lambda: image_folder.read(tmp_path / "set"))
    (tmp_path / "set/val").unlink()
    copytree(root, tmp_path / "set/val")
    os.symlink("../../train/cat", tmp_path / "set/val/cat/more")
    source = image_folder.read(tmp_path / "set")
    assert len(source.samples) == 12 and {s.split for s in source.samples if "train/" in s.path} == {"train"}


def test_an_image_linked_twice_in_a_class_counts_once(root: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "pool/1.png")
    for name in ("x", "y"):
        os.symlink(tmp_path / "pool/1.png", root / f"cat/{name}.png")
    os.link(root / "cat/00.png", root / "cat/hard.png")  # a file as any other
    source = image_folder.read(root)
    assert "cat/x.png" in paths(source) and "cat/y.png" not in paths(source) and "cat/hard.png" in paths(source)
    assert len(source.samples) == 8 and source.notes[0].startswith(
        f"1 link that repeats a file or folder in {root} is left out"
    )


def test_a_class_whose_images_are_in_another_one(root: Path) -> None:
    (root / "newt").mkdir()
    os.symlink("../cat/00.png", root / "newt/00.png")
    message = refused(lambda: image_folder.read(root))
    assert message.startswith("class 'newt' has no images") and "newt/00.png" in message


def test_special_files_and_unreadable_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "cat/pipe.png")
    result = walk(root)
    assert len(result.files) == 6
    assert result.notes == [f"1 pipe, socket or device in {root} is left out: cat/pipe.png"]
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert refused(lambda: walk(root)).startswith(f"{root / 'dog'}: cannot be read (Permission denied)")


def test_bytes_that_are_not_utf8_can_be_printed(root: Path) -> None:
    os.rename(root / "cat/00.png", os.fsencode(root) + b"/cat/.caf\xe9.png")
    assert walk(root).notes[0].endswith(r": cat/.caf\xe9.png")


def test_a_walk_is_fast(tmp_path: Path) -> None:
    """100,000 files take half a second; 20,000 are quick to make."""
    for i in range(20):
        (tmp_path / str(i)).mkdir()
        for j in range(1000):
            os.close(os.open(tmp_path / f"{i}/{j}.jpg", os.O_CREAT))
    begin = time.process_time()
    assert len(walk(tmp_path).images) == 20_000
    assert time.process_time() - begin < 1


def write_voc(root: Path) -> Path:
    for i in range(6):
        write_image(root / f"JPEGImages/{i}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
        text = f"<annotation><object><name>a</name>{box}</object></annotation>"
        (root / f"Annotations/{i}.xml").write_text(text)
    return root


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Source], tuple[str, ...]]] = {
    "coco": (write_coco, lambda root: coco.read(root, "a.json"), (".",)),
    "yolo": (
        lambda root: write_yolo(root, "names: [a]\n"),
        yolo.read,
        ("images/train", "images/val", "labels/train"),
    ),
    "voc": (write_voc, lambda root: voc.read(root, splits=None), ("JPEGImages", "Annotations")),
    "masks": (write_masks, lambda root: masks.read(root, classes=["a", "b"]), ("images", "masks")),
    "instance_masks": (write_masks, lambda root: instance_masks.read(root, classes=["a"]), ("images", "masks")),
}


@pytest.mark.parametrize("name", READERS)
def test_hidden_files_and_links_in_every_reader(name: str, tmp_path: Path) -> None:
    write, read, folders = READERS[name]
    root = write(tmp_path / "set")
    expected = read(root)
    assert expected.notes == []
    for folder in folders:
        add_junk(root / folder)
        for file in ("._0.txt", "._0.xml", "._0.png"):
            (root / folder / file).write_bytes(b"\0")
        os.symlink("..", root / folder / "loop")
    source = read(root)
    assert paths(source) == paths(expected) and source.schema == expected.schema
    walks = 1 if name == "yolo" else len(folders)  # its splits have one note, its labels none
    assert [note.split()[1] for note in source.notes].count("hidden") == walks
    assert any("link" in note for note in source.notes)
    os.symlink(root, tmp_path / "linked")
    assert paths(read(tmp_path / "linked")) == paths(expected)


def test_several_images_may_share_a_mask(tmp_path: Path) -> None:
    root = write_masks(tmp_path / "set")
    for i in (3, 4):
        (root / f"masks/{i}.png").unlink()
        os.symlink("0.png", root / f"masks/{i}.png")
    copytree(root / "images", root / "images/dark")
    os.symlink(".." + "/masks", root / "dark")
    copytree(root / "masks", tmp_path / "day")
    os.symlink(tmp_path / "day", root / "masks/dark")
    source = masks.read(root, classes=["a", "b"])
    assert len(source.samples) == 20 and source.notes == []


@pytest.mark.parametrize("name", [n for n in READERS if "masks" in n or n == "voc"])
def test_unicode_forms_pair(name: str, tmp_path: Path) -> None:
    write, read, (images, labels) = READERS[name]
    root = write(tmp_path / "set")
    for folder, form in ((images, NFD), (labels, NFC)):
        (path,) = (root / folder).glob("0.*")
        path.rename(path.with_stem(form))
    source = read(root)
    assert f"{images}/{NFD}.jpg" in paths(source) and source.notes == []
    write_image(root / images / f"{NFC}.jpg")
    assert "two files of the same name" in refused(lambda: read(root))


def test_unicode_forms_of_a_class(root: Path, tmp_path: Path) -> None:
    for split, form in (("train", NFD), ("val", NFC)):
        copytree(root, tmp_path / "set" / split)
        (tmp_path / "set" / split / "cat").rename(tmp_path / "set" / split / form)
    source = image_folder.read(tmp_path / "set")
    assert source.schema["classification"].classes == [NFC, "dog"]
    for form in (NFD, NFC):
        copytree(root / "cat", root / form)
    assert "differ only in their Unicode form" in refused(lambda: image_folder.read(root))


def test_unicode_forms_in_split_lists(root: Path) -> None:
    (root / "cat").rename(root / NFD)
    (root / "lists").mkdir()
    (root / "lists/train.txt").write_text(f"{NFC}/00.png\n{NFC}/01\ndog/00.png\n", encoding="utf-8")
    (root / "lists/valid.txt").write_text(f"{root}/dog/02.png\r\n.\\{NFC}\\02.png\r\n", encoding="utf-8")
    splits = {sample.path: sample.split for sample in image_folder.read(root, splits="lists").samples}
    assert splits == {
        f"{NFD}/00.png": "train",
        f"{NFD}/01.png": "train",
        f"{NFD}/02.png": "val",
        "dog/00.png": "train",
        "dog/02.png": "val",
    }
    (root / "lists/val.txt").write_text("dog/01\n")
    assert "are both lists of val" in refused(lambda: image_folder.read(root, splits="lists"))


def test_a_walk_of_several_folders(root: Path) -> None:
    files, notes = walk_each([root / "cat", root / "dog"], root)
    assert [len(paths) for paths in files.values()] == [3, 3] and notes == []


def test_the_plan_says_what_is_left_out(tmp_path: Path, plan: Callable[..., Outcome]) -> None:
    root = write_folders(tmp_path / "set")
    write_image(root / "cat/.ipynb_checkpoints/00-checkpoint.png")
    write_image(root / "dog/@eaDir/00.png/THUMB_M.jpg")
    os.symlink("..", root / "cat/all")
    out = plan("data=image_folder", f"data.root={root}").out
    images = next(line.split()[1:] for line in out.splitlines() if line.strip().startswith("images"))
    assert sum(map(int, images)) == 24
    assert out.count("hidden and system files and folders") == out.count("cat/.ipynb_checkpoints, dog/@eaDir") == 1
    assert out.count("1 link that repeats") == 1 and ": cat/all\n" in out


def test_a_group_pattern_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        write_image(tmp_path / name / f"p1_{'a' * 24}.png")
    assert {sample.group for sample in image_folder.read(tmp_path, group_pattern=r"(p\d)_").samples} == {"p1"}
    monkeypatch.setattr(groups, "SECONDS", 0.05)
    with pytest.raises(UserError) as error:
        image_folder.read(tmp_path, group_pattern=r"((a+)+)$")
    assert str(error.value).startswith("data.group_pattern='((a+)+)$' takes longer than 0.052 seconds, at cat/p1_aaaa")
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0 and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
