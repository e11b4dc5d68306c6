"""Files that change, that have odd names or that cannot be read, and machines with few cores or little memory."""

import csv
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from inputs import write_coco, write_folders, write_image, write_masks, write_yolo
from PIL import Image
from running import SMALL, Command, Outcome, can_mount

from visiontune.cores import usable_cores
from visiontune.data import shared_memory
from visiontune.data.images import ImageDecoder
from visiontune.data.scan import orientation_note, read_image_sizes, scan
from visiontune.data.shared_memory import shared_memory_errors
from visiontune.errors import RunError

Plan = Callable[..., Outcome]
ODD_NAMES = [
    "two\nlines.png",
    "a\rb.png",
    'quo"ted".png',
    "com,ma;semi.png",
    " leading.png",
    "#hash.png",
    "=1+1.png",
    "'single'.png",
    "tab\t.png",
    "back\\slash.png",
    "percent%20.png",
    "ünï.png",
    "\u202eturned.png",
    "x" * 200 + ".png",
]


def test_masks_that_change_with_the_same_size_and_time(tmp_path: Path, plan: Plan) -> None:
    root = write_masks(tmp_path)
    for path in (root / "masks").glob("*.png"):
        Image.open(path).save(path.with_suffix(".pgm"))
        path.unlink()
    overrides = ["heads=segmentation", "data=masks", "data.classes=[a,b]", f"data.root={root}"]
    assert plan(*overrides).code == 0
    for path in (root / "masks").glob("*.pgm"):
        before, data = path.stat(), path.read_bytes()
        path.write_bytes(data[:-3072] + data[-3072:].replace(b"\x01", b"\x09"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    assert "10 masks have values that belong to no class" in plan(*overrides).message


def replaced_by_rename(path: Path, other: Path) -> None:
    other.replace(path)


def copied_with_its_times(path: Path, other: Path) -> None:
    shutil.copy2(other, path)  # cp -p


def linked_to_another(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


def hard_linked(path: Path, other: Path) -> None:
    path.unlink()
    path.hardlink_to(other)


@pytest.mark.parametrize("replace", [replaced_by_rename, copied_with_its_times, linked_to_another, hard_linked])
def test_another_file_of_the_same_size_and_time_is_read(tmp_path: Path, replace: Callable[[Path, Path], None]) -> None:
    path, other = tmp_path / "a" / "1.txt", tmp_path / "b" / "1.txt"
    for file, text in ((path, "old"), (other, "new")):
        file.parent.mkdir()
        file.write_text(text)
        os.utime(file, (1e9, 1e9))
    reads: list[str] = []

    def read_text(file: Path) -> str:
        reads.append(file.name)
        return file.read_text()

    for _ in range(2):
        assert scan(tmp_path, ["a/1.txt"], read_text, "test") == {"a/1.txt": "old"}
    assert reads == ["1.txt"]
    replace(path, other)
    assert scan(tmp_path, ["a/1.txt"], read_text, "test") == {"a/1.txt": "new"}


def test_an_interrupted_scan_keeps_what_it_has_read(tmp_path: Path) -> None:
    names = [f"{i:03d}" for i in range(400)]
    for name in names:
        (tmp_path / name).write_text(name)
    reads: list[str] = []

    def interrupt(file: Path) -> str:
        reads.append(file.name)
        if file.name == "300":
            raise KeyboardInterrupt
        return file.name

    with pytest.raises(KeyboardInterrupt):
        scan(tmp_path, names, interrupt, "test")
    reads.clear()
    result = scan(tmp_path, names, lambda file: (reads.append(file.name), file.name)[1], "test")
    assert result == {name: name for name in names} and list(result) == names
    assert "000" not in reads and len(reads) <= 200


def test_a_name_that_is_not_unicode(tmp_path: Path, plan: Plan, command: Command) -> None:
    root = write_folders(tmp_path / "photos")
    os.rename(root / "cat" / "00.png", os.fsencode(root / "cat") + b"/caf\xe9.png")
    overrides = ["data=image_folder", f"data.root={root}"]
    message = plan(*overrides).message
    assert "1 file name is not UTF-8 under" in message and r"cat/caf\xe9.png" in message
    run_dir = tmp_path / "run"
    assert command("train", *SMALL, *overrides, f"run_dir={run_dir}").message == message
    assert not run_dir.exists()
    # In a note it is escaped as well.
    os.rename(os.fsencode(root / "cat") + b"/caf\xe9.png", os.fsencode(root / "cat") + b"/caf\xe9.txt")
    assert r"caf\xe9.txt" in plan(*overrides).out


@pytest.mark.slow
def test_odd_names_come_back_equal(tmp_path: Path, command: Command) -> None:
    root = write_folders(tmp_path / "photos")
    for i, name in enumerate(ODD_NAMES):
        write_image(root / ("cat", "dog")[i % 2] / f"{i}.png", seed=7).rename(root / ("cat", "dog")[i % 2] / name)
    overrides = ["data=image_folder", f"data.root={root}", "trainer.max_epochs=1", "logger=none", "test=true"]
    run = command("train", *SMALL, *overrides, f"run_dir={tmp_path / 'run'}").run
    expected = {f"{('cat', 'dog')[i % 2]}/{name}" for i, name in enumerate(ODD_NAMES)}
    for file in (run.splits, run.predictions):
        with file.open(encoding="utf-8", newline="") as table:
            paths = {row["path"] for row in csv.DictReader(table)}
        assert (
            expected <= paths
            if file == run.splits
            else paths <= {p.relative_to(root).as_posix() for p in root.rglob("*.png")}
        )
    assert command("evaluate", f"run={run.path}", "split=train").code == 0
    assert command("train", f"run={run.path}", "trainer.max_epochs=2").code == 0


def test_bad_images_are_an_error_or_left_out(tmp_path: Path, plan: Plan) -> None:
    root = write_folders(tmp_path)
    (root / "cat" / "00.png").write_bytes(b"nonsense")
    whole = (root / "dog" / "03.png").read_bytes()
    (root / "dog" / "03.png").write_bytes(whole[: len(whole) // 2])
    overrides = ["data=image_folder", f"data.root={root}"]
    message = plan(*overrides).message
    assert "2 images under" in message and "data.on_bad_image=skip" in message
    for verify_mode in ("auto", "full"):
        out = plan(*overrides, "data.on_bad_image=skip", f"data.verify={verify_mode}").out
        assert "note: 2 files cannot be read, so their samples are left out (data.on_bad_image=skip): cat/00.png" in out
        assert out.count("00.png") == 1 and "(truncated)" in out
    (root / "dog" / "03.png").write_bytes(whole)
    assert "note: 1 file cannot be read" in plan(*overrides, "data.on_bad_image=skip").out


def write_voc(root: Path) -> None:
    write_masks(root)
    (root / "images").rename(root / "JPEGImages")
    (root / "masks").rename(root / "SegmentationClass")
    (root / "Annotations").mkdir()
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    for i in range(10):
        text = f"<annotation><object><name>a</name>{box}</object></annotation>"
        (root / "Annotations" / f"{i}.xml").write_text(text)


BAD_IMAGE, BAD_MASK = "images/3.jpg", "masks/5.png"


@pytest.mark.parametrize(
    ("write", "overrides", "files"),
    [
        (write_masks, ["heads=segmentation", "data=masks", "data.classes=[a,b]"], [BAD_IMAGE, BAD_MASK]),
        (write_masks, ["heads=detection", "data=instance_masks", "data.classes=[a]"], [BAD_IMAGE, BAD_MASK]),
        (
            write_voc,
            ["heads=[detection,segmentation]", "data=voc"],
            ["JPEGImages/3.jpg", "SegmentationClass/5.png"],
        ),
        (write_coco, ["heads=detection", "data=coco", "data.annotations=a.json"], ["3.jpg", "5.jpg"]),
        (
            lambda root: write_yolo(root, "names: [a]\n"),
            ["heads=detection", "data=yolo"],
            ["images/train/train3.jpg", "images/val/val5.jpg"],
        ),
    ],
)
def test_every_reader_leaves_bad_files_out(
    tmp_path: Path, plan: Plan, write: Callable[[Path], object], overrides: list[str], files: list[str]
) -> None:
    write(tmp_path)
    count = len(list(tmp_path.rglob("*.jpg")))
    for file in files:
        (tmp_path / file).write_bytes(b"nonsense")
    overrides = [*overrides, f"data.root={tmp_path}", "data.image_size=64"]
    assert "cannot be read; repair or remove, or write data.on_bad_image=skip" in plan(*overrides).message
    out = plan(*overrides, "data.on_bad_image=skip").out
    note = "note: 2 files cannot be read, so their samples are left out (data.on_bad_image=skip): "
    assert out.count(note + ", ".join(f"{file} (not an image)" for file in files)) == 1
    row = next(line.split() for line in out.splitlines() if line.startswith("images "))
    assert sum(map(int, row[1:])) == count - 2


def test_sizes_and_orientation_of_images(tmp_path: Path) -> None:
    exif = Image.Exif()
    for i in range(4):
        exif[0x0112] = 6 if i else 1
        Image.open(write_image(tmp_path / f"{i}.jpg")).save(tmp_path / f"{i}.jpg", exif=exif)
    names = [f"{i}.jpg" for i in range(4)]
    assert list(read_image_sizes(tmp_path, names).values()) == [(48, 64)] + 3 * [(64, 48)]
    assert set(read_image_sizes(tmp_path, names, ImageDecoder(orientation="ignore")).values()) == {(48, 64)}
    (note,) = orientation_note(tmp_path, names)
    assert note.startswith("3 images have an EXIF orientation, which is applied") and note.endswith(
        ": 1.jpg, 2.jpg, 3.jpg"
    )
    (note,) = orientation_note(tmp_path, names, "ignore")
    assert "which is ignored (data.orientation=ignore)" in note
    assert orientation_note(tmp_path, names[:1]) == []


def test_cores_by_affinity_and_quota(tmp_path: Path) -> None:
    everything = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everything)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, everything)

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert usable_cores(tmp_path) == len(everything)
    write("proc/self/cgroup", "0::/user/job\n")
    write("sys/fs/cgroup/user/job/cpu.max", "max 100000\n")
    assert usable_cores(tmp_path) == len(everything)
    write("sys/fs/cgroup/user/cpu.max", "50000 100000\n")
    assert usable_cores(tmp_path) == 1
    write("proc/self/cgroup", "5:memory:/elsewhere\n4:cpu,cpuacct:/docker/abc\n")
    assert usable_cores(tmp_path) == len(everything)
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n")
    write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert usable_cores(tmp_path) == 1
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    assert usable_cores(tmp_path) == len(everything)


def test_workers_with_too_little_shared_memory(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    item = {"image": torch.zeros(3, 16, 16, dtype=torch.uint8)}
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 98_303)
    shared_memory.check_shared_memory(item, 32, num_workers=1)
    with pytest.raises(RunError, match=r"2 data-loader workers with batches of 32 need 0\.1 MB of shared memory"):
        shared_memory.check_shared_memory(item, 32, num_workers=2)
    root = write_folders(tmp_path / "photos")
    overrides = ["data=image_folder", f"data.root={root}", "trainer.max_epochs=1", "logger=none"]
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 100)
    outcome = command("train", *SMALL, *overrides, "data.num_workers=2", f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 1 and "use data.num_workers=0, or a larger /dev/shm" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of",
        "unable to write to file </torch_12_34_0>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_12_34_0>: Success (0)",
    ],
)
def test_errors_of_workers_say_what_to_do(text: str) -> None:
    with pytest.raises(RunError, match=r"use data\.num_workers=0, or a larger /dev/shm"), shared_memory_errors():
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="another"), shared_memory_errors():
        raise RuntimeError("another")


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="mounting a small /dev/shm needs root and CAP_SYS_ADMIN")
def test_a_small_dev_shm(tmp_path: Path) -> None:
    root = write_masks(tmp_path / "data", count=40)
    train = " ".join(
        shlex.quote(word)
        for word in (
            *(sys.executable, "-m", "visiontune", "train", *SMALL, "heads=segmentation", "data=masks"),
            *("data.classes=[a,b]", f"data.root={root}", "data.num_workers=2", "data.image_size=160"),
            *("data.batch_size=16", "epochs=1", "logger=none", f"run_dir={tmp_path / 'run'}"),
        )
    )
    script = f"mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {train}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "data.num_workers=0, or a larger /dev/shm" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_skipped_images_in_resumed_and_evaluated_runs(tmp_path: Path, command: Command, no_report: None) -> None:
    root = write_folders(tmp_path / "photos")
    good = (root / "cat" / "00.png").read_bytes()
    (root / "cat" / "00.png").write_bytes(b"nonsense")
    overrides = ["data=image_folder", f"data.root={root}", "data.on_bad_image=skip", "trainer.max_epochs=1"]
    run = command("train", *SMALL, *overrides, "logger=none", f"run_dir={tmp_path / 'run'}").run
    assert "cat/00.png" not in run.splits.read_text()
    assert run.log.read_text().count("1 file cannot be read, so their samples are left out") == 1
    before = command("evaluate", f"run={run.path}", "split=train").out
    assert before and command("train", f"run={run.path}", "trainer.max_epochs=2").code == 0
    (root / "cat" / "00.png").write_bytes(good)
    assert command("evaluate", f"run={run.path}", "split=val").code == 0
    refused = command("train", f"run={run.path}", "trainer.max_epochs=3")
    assert "1 image is new since this run started: cat/00.png" in refused.message
