"""`predict` on folders as people have them."""

import os
import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from inputs import write_image
from running import Command, Outcome

from visiontune.data import images as images_module
from visiontune.data import loaders
from visiontune.data.images import ImageDecoder, load_image, load_images
from visiontune.data.inputs import open_input
from visiontune.data.loaders import image_loader
from visiontune.data.memory_budget import MemoryBudget
from visiontune.data.video import VideoWriter
from visiontune.errors import UserError
from visiontune.models.heads.drawing import caption
from visiontune.models.heads.overlays import draw_label_map, draw_objects
from visiontune.predict import drawing_name
from visiontune.runs import RunDirectory
from visiontune.runs.predictions import read_predictions

HEIC = Path(__file__).parent / "red_and_blue.heic"
Predict = Callable[..., Outcome]


@pytest.fixture
def predict(command: Command, run: RunDirectory) -> Predict:
    """`predict("input=photos", "output=out")` with a trained run."""
    return lambda *overrides: command("predict", f"run={run.path}", *overrides)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_output_is_an_input(tmp_path: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("images", "photos"):
        for i in range(3):
            write_image(tmp_path / name / f"{i}.png")
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    for source, output in [
        ("images", "."),
        ("photos", "."),
        ("photos", "photos"),
        ("photos", "photos/predictions"),
        ("photos/0.png", "photos"),
        (".", "elsewhere"),
    ]:
        message = predict(f"input={source}", f"output={output}").message
        assert message.startswith("output=") and "write " in message
        assert contents(tmp_path) == before
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert "is in input=photos" in predict("input=photos", "output=link/new").message
    assert contents(tmp_path / "photos") == {name[7:]: data for name, data in before.items() if name[0] == "p"}


def test_a_broken_file_ends_nothing(tmp_path: Path, predict: Predict) -> None:
    for i in range(6):
        write_image(tmp_path / "camera" / f"{i}.jpg")
    (tmp_path / "camera" / "3.jpg").write_bytes(b"nonsense")
    (tmp_path / "camera" / "5.jpg").write_bytes((tmp_path / "camera" / "5.jpg").read_bytes()[:900])
    outcome = predict(f"input={tmp_path / 'camera'}", f"output={tmp_path / 'out'}")
    table = tmp_path / "out" / "predictions.csv"
    assert outcome.code == 1 and outcome.out.splitlines()[-1] == str(tmp_path / "out")
    assert outcome.err == (
        f"error: 2 files cannot be read; the predictions of the others are in {table}. Repair or remove:\n"
        "  3.jpg: not an image\n  5.jpg: truncated\n"
    )
    assert [row["path"] for row in read_predictions(table)] == ["0.jpg", "1.jpg", "2.jpg", "4.jpg"]
    for path in (tmp_path / "camera").iterdir():
        path.write_bytes(b"nonsense")
    message = predict(f"input={tmp_path / 'camera'}", f"output={tmp_path / 'none'}").message
    assert "no image can be read" in message and message.count("not an image") == 6
    assert not (tmp_path / "none").exists()


def test_names_of_all_kinds(tmp_path: Path, predict: Predict) -> None:
    """Each image has a drawing, whatever its name, and the table is valid UTF-8."""
    root = tmp_path / "new"
    for name in ("a.png", "a.jpg", "a.jpg.png", "A.PNG", "deep/a.png", "Vögel (1), $5.png", "x" * 250 + ".jpg"):
        write_image(root / name)
    os.rename(write_image(root / "b.png"), os.fsencode(root) + b"/caf\xe9.png")
    (root / ".hidden").mkdir()
    write_image(root / ".hidden" / "0.png")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "cat").symlink_to(root)
    (root / "loop").symlink_to(root)
    outcome = predict(f"input={tmp_path / 'linked'}", f"output={tmp_path / 'out'}", "batch_size=3")
    assert outcome.code == 0, outcome.err
    assert "note: " in outcome.out and ".hidden" in outcome.out
    rows = [row["path"] for row in read_predictions(tmp_path / "out" / "predictions.csv")]
    assert len(rows) == 8 and "cat/caf\\xe9.png" in rows and "cat/Vögel (1), $5.png" in rows
    drawings = sorted(path.name for path in (tmp_path / "out" / "images").rglob("*.png"))
    assert len(drawings) == 8 and {"a.png", "a.jpg.png", "a.jpg.png.png", "A.PNG.png", "caf\\xe9.png"} < {*drawings}
    assert drawing_name("a.jpg", {"a.jpg", "a.jpg.png", "a.jpg.png.png"}) == "a.jpg.png.png.png"
    assert len(drawing_name("d/" + "é" * 200 + ".jpg").encode()) < 257


def test_inputs_with_one_message(tmp_path: Path, predict: Predict) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    assert "no image can be read" in predict(f"input={tmp_path / 'notes.txt'}").message
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(b"nonsense")
    assert "A video is read alone: input=" in predict(f"input={tmp_path / 'films'}").message
    assert "cannot be read as a video" in predict(f"input={tmp_path / 'films' / 'a.mp4'}").message
    os.mkfifo(tmp_path / "pipe.png")
    assert "neither a file nor a folder" in predict(f"input={tmp_path / 'pipe.png'}").message


def test_a_damaged_video_keeps_its_frames(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", Fraction(8)) as video:
        for i in range(4):
            video.write(torch.full((3, 32, 48), 40 * i, dtype=torch.uint8))
    source = open_input(tmp_path / "a.mp4", ImageDecoder(), tmp_path / "out")
    assert [name for name, _ in source.images()] == [f"a.mp4/{i:06d}" for i in range(4)] and not source.problems
    small = open_input(tmp_path / "a.mp4", ImageDecoder(max_pixels=1000), tmp_path / "out")
    assert not [*small.images()] and "48 x 32 pixels; data.max_pixels=1000 is the limit" in small.problems[0]


def test_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pi_heif")
    image = load_image(HEIC)
    assert image.shape == (3, 48, 64) and image[:, 24, 10].argmax() == 0 and image[:, 24, 50].argmax() == 2
    shutil.copy(HEIC, tmp_path / "phone.jpg")  # as some phones name it
    assert torch.equal(load_image(tmp_path / "phone.jpg"), image)
    shutil.copy(HEIC, tmp_path / "a.HEIC")
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    message = r"HEIC needs pi-heif, an extra of this package: pip install 'visiontune\[heic\]'"
    with pytest.raises(UserError, match=rf"1 image is HEIC, such as a.HEIC. {message}"):
        open_input(tmp_path, ImageDecoder(), tmp_path.parent / "out")
    with pytest.raises(UserError, match=message):
        load_image(tmp_path / "phone.jpg")


@pytest.mark.parametrize("size", [(2, 600), (600, 2), (1, 1), (1, 3000), (20, 24)])
def test_drawings_of_thin_images_are_small(size: tuple[int, int]) -> None:
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for drawing in (
        caption(image, ["cat 93%"]),
        draw_objects(image, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), ["cat 93%"]),
        draw_label_map(image, torch.zeros(size, dtype=torch.uint8), ["cat", "dog"]),
    ):
        assert drawing.shape[0] == 3 and drawing.numel() < 2_000_000
    assert caption(image, ["cat"]).shape[2] >= 160


def test_images_are_decoded_ahead_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_image(tmp_path / f"{i}.png", (50, 40)) for i in range(8)]
    started: list[Path] = []

    def decode(path: Path) -> torch.Tensor:
        started.append(path)
        return load_image(path)

    monkeypatch.setattr(images_module, "AHEAD_BYTES", 3 * 50 * 40 * 7)
    for i, image in enumerate(load_images(paths, decode)):
        assert len(started) <= i + 4 and torch.equal(image, load_image(paths[i]))  # type: ignore[arg-type]
    monkeypatch.setattr(loaders, "BATCH_BYTES", 2 * 50 * 40 * 3)
    loader = image_loader(lambda: zip("abcdefgh", map(load_image, paths), strict=True), image_size=16, batch_size=4)
    assert [batch["path"] for batch in loader] == [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]]
    loader = image_loader(lambda: iter([("a", load_image(paths[0]))]), image_size=16, original_images=False)
    assert "original_image" not in next(iter(loader))


def test_a_budget_is_shared() -> None:
    budget = MemoryBudget(10)
    with budget.reserve(4), budget.reserve(6):
        assert budget.used == 10
    with budget.reserve(1000):  # alone
        assert budget.used == 10
    assert budget.used == 0
