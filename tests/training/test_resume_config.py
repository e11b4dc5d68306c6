"""Which checkpoint a run resumes from, and when resuming is refused."""

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniatures import FORMATS, change_json
from PIL import Image
from running import Command, mostly_slow

from visiontune import __version__
from visiontune.data import VisionData
from visiontune.errors import UserError
from visiontune.models.finetuner import FineTuner
from visiontune.runs import RunDirectory
from visiontune.runs.log_files import cut_log_files, log_file_lengths
from visiontune.training.build import build_data
from visiontune.training.resume import resume_config


def test_log_files_are_cut_back(tmp_path: Path) -> None:
    events, scalars = "tensorboard/a/events.out.tfevents.1", "csv/scalars.csv"
    for name, text in ((events, "12345"), (scalars, "123"), ("tensorboard/notes", "mine")):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    lengths = log_file_lengths(tmp_path)
    assert lengths == {events: 5, scalars: 3}
    for name in lengths:
        with (tmp_path / name).open("a") as file:
            file.write("more")
    (tmp_path / "tensorboard" / "events.out.tfevents.3").write_text("later")
    cut_log_files(tmp_path, lengths)
    assert log_file_lengths(tmp_path) == lengths and (tmp_path / events).read_text() == "12345"
    cut_log_files(tmp_path, {})
    assert log_file_lengths(tmp_path) == {} and (tmp_path / "tensorboard" / "notes").exists()


class Killed(BaseException):
    """Ends the run like a kill: nothing is written afterwards."""


@pytest.fixture(scope="module")
def runs(command: Command, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, Path]:
    """A run of three epochs of four steps, and the folder of the same run, killed in its third epoch."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = [*tiny, "trainer.max_epochs=3", "data.batch_size=16", "strategy=full", "seed=3"]
    whole = command("train", *arguments, f"run_dir={folder / 'whole'}").run

    def stop(self: FineTuner, batch: Any, number: int) -> None:
        if self.current_epoch == 2 and number == 1:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTuner, "on_train_batch_start", stop)
        with pytest.raises(Killed):
            command("train", *arguments, f"run_dir={folder / 'parts'}")
    return whole, folder / "parts"


@pytest.fixture
def stopped(runs: tuple[RunDirectory, Path], tmp_path: Path) -> RunDirectory:
    """A copy of the killed run, which a test may change."""
    shutil.copytree(runs[1], tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")


def corrupt(path: Path) -> None:
    """Change one byte of a weight: `torch.load` still reads it."""
    weight = torch.load(path, weights_only=True)["state_dict"]["heads.classification.linear.weight"]
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes())] ^= 255
    path.write_bytes(content)
    torch.load(path, weights_only=True)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", mostly_slow([corrupt, truncate, Path.unlink], corrupt))
def test_a_corrupt_last_checkpoint(
    damage: Callable[[Path], None], stopped: RunDirectory, runs: tuple[RunDirectory, Path], command: Command
) -> None:
    damage(stopped.checkpoint("last"))
    outcome = command("train", f"run={stopped.path}")
    line = "resumes after step 4, from previous.ckpt: last.ckpt is missing or corrupt"
    assert line in outcome.out.splitlines() and outcome.out.count("resumes after") == 1
    assert line in stopped.log.read_text()
    # It ends like the uninterrupted run.
    whole, resumed = (torch.load(run.checkpoint("last"), weights_only=True) for run in (runs[0], stopped))
    assert whole["global_step"] == resumed["global_step"] == 12
    assert all(torch.equal(value, resumed["state_dict"][name]) for name, value in whole["state_dict"].items())
    assert history(stopped) == history(runs[0])
    assert sorted(path.name for path in stopped.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]


def history(run: RunDirectory) -> list[dict[str, str]]:
    with run.history.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_the_best_checkpoint_is_the_last_resort(
    stopped: RunDirectory, runs: tuple[RunDirectory, Path], command: Command
) -> None:
    step = torch.load(stopped.checkpoint("best"), weights_only=True)["global_step"]
    corrupt(stopped.checkpoint("last"))
    truncate(stopped.checkpoints / "previous.ckpt")
    outcome = command("train", f"run={stopped.path}")
    assert f"resumes after step {step}, from best.ckpt: last.ckpt is missing or corrupt" in outcome.out.splitlines()
    assert history(stopped) == history(runs[0])


def test_no_checkpoint_can_be_read(stopped: RunDirectory, command: Command) -> None:
    for path in stopped.checkpoints.glob("*.ckpt"):
        truncate(path)
    message = command("train", f"run={stopped.path}").message
    assert message.startswith(f"no checkpoint of {stopped.path} can be read, so it cannot be resumed; start a new run")
    assert message.endswith("last.ckpt is corrupt: File is not a zip file")
    assert stopped.read_status()["error"] == "Killed: "  # nothing was started


def test_a_run_that_another_process_trains(stopped: RunDirectory, command: Command) -> None:
    lock = "f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    lock = f"import fcntl, sys; {lock}"
    place = stopped.path / ".claim"
    with subprocess.Popen([sys.executable, "-c", lock, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        message = command("train", f"run={stopped.path}").message
    assert message.startswith(f"another process is using {stopped.path}")
    assert stopped.read_status()["error"] == "Killed: "


def test_fewer_epochs_than_it_has_trained(stopped: RunDirectory, command: Command) -> None:
    assert command("train", f"run={stopped.path}", "epochs=1").message == (
        f"trainer.max_epochs=1: {stopped.path} has trained for 2 epochs; write 2 or more"
    )
    assert stopped.read_status()["error"] == "Killed: "


def test_another_number_of_ranks_within_an_epoch(stopped: RunDirectory, command: Command) -> None:
    path = stopped.checkpoint("last")
    state = torch.load(path, weights_only=True)
    state["VisionData"]["done"], state["exact_resume"]["ranks"] = 1, [{}, {}]
    torch.save(state, path)
    assert command("train", f"run={stopped.path}", "trainer.max_epochs=9").message == (
        f"trainer.devices=1: {path} was written within an epoch of 2 ranks; write trainer.devices=2, or start a new "
        f"run from its weights with weights_from={stopped.path}"
    )


def test_what_may_change(stopped: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`epochs` means `trainer.max_epochs`, as for a new run; folders become absolute paths."""
    monkeypatch.chdir(tmp_path)
    cfg, checkpoint = resume_config(stopped, ["run=here", "epochs=7", "+data.root=photos", "trust=True"])
    assert cfg.trainer.max_epochs == 7 and checkpoint == stopped.checkpoint("last")
    assert cfg.data.root == str(tmp_path.resolve() / "photos")


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def test_another_version_that_fits_is_logged(stopped: RunDirectory, command: Command) -> None:
    edit(stopped.checkpoint("last"), lambda state: state["visiontune"].update(version="0.0.9"))
    outcome = command("train", f"run={stopped.path}")
    assert outcome.code == 0, outcome.err
    assert f"resumes after step 8; it was made with visiontune 0.0.9, this is {__version__}" in outcome.out.splitlines()


@pytest.mark.parametrize("what", ["weights", "optimizer"])
def test_another_version_that_does_not_fit(what: str, stopped: RunDirectory, command: Command) -> None:
    name = "heads.classification.linear.weight"

    def change(state: dict[str, Any]) -> None:
        state["visiontune"]["version"] = "0.0.9"
        if what == "weights":
            state["current_model_state"][name] = torch.zeros(10, 99)
        else:
            state["optimizer_states"][0]["param_groups"].pop()

    edit(stopped.checkpoint("last"), change)
    assert command("train", f"run={stopped.path}").message == (
        f"{stopped.checkpoint('last')} (visiontune 0.0.9) does not fit what its config builds now (visiontune "
        f"{__version__}): "
        f"{name if what == 'weights' else 'the optimizer' + chr(39) + 's groups'}. Resume it with the code that "
        f"made it, or start a new run from its weights with weights_from={stopped.path}"
    )
    assert stopped.read_status()["error"] == "Killed: "


def test_a_config_of_another_version(stopped: RunDirectory, command: Command) -> None:
    text = stopped.config.read_text().replace("\nl1: 0.0\n", "\nlasso: 0.0\n")
    assert "lasso" in text
    stopped.config.write_text(text)
    stopped.environment.write_text('{"packages": {"visiontune": "0.0.9"}}')
    message = command("train", f"run={stopped.path}").message
    assert (
        message.startswith(f"{stopped.config} was written by visiontune 0.0.9, and this is {__version__}: ")
        and "l1" in message
    )


# ---- a data set that has changed


@pytest.fixture
def failed_run(
    command: Command, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """`failed_run("data=csv", ...)`: the directory of a run that failed at its first step."""

    def start(*overrides: str) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr(FineTuner, "training_step", lambda *_: 1 / 0)
            place = tmp_path / "run"
            outcome = command("train", *small, "logger=none", *overrides, f"run_dir={place}")
        assert outcome.code == 1 and "ZeroDivisionError" in outcome.err
        return place

    return start


def paint(path: Path) -> None:
    """Replace the image by another one of the same size."""
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size, (9, 9, 9)).save(path)


def add(root: Path) -> None:
    shutil.copy(root / "sky" / "07.png", root / "sky" / "new.png")
    Image.new("RGB", (20, 24), (9, 9, 9)).save(root / "sky" / "new.png")


def add_class(root: Path) -> None:
    """Add a class before the others, so that their numbers change."""
    shutil.copytree(root / "sky", root / "apple")
    for path in (root / "apple").iterdir():
        with Image.open(path) as image:
            rotated = image.rotate(180)
        rotated.save(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: (root / "sky" / "07.png").unlink(),
            "1 image of this run cannot be found or read: sky/07.png",
        ),
        (lambda root: paint(root / "sky" / "07.png"), "1 image has changed since this run started: sky/07.png"),
        (add, "1 image is new since this run started: sky/new.png. Remove them, or start a new run from"),
        (add_class, "20 images are new since this run started: apple/"),
        (lambda root: shutil.rmtree(root / "sky"), "20 images of this run cannot be found or read: sky/"),
    ],
    ids=["missing image", "other content", "new image", "new class", "missing class"],
)
@pytest.mark.slow
def test_a_folder_that_has_changed(
    change: Callable[[Path], Any],
    message: str,
    failed_run: Callable[..., Path],
    command: Command,
    tiles: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(tiles, tmp_path / "photos")
    place = failed_run("data=image_folder", f"data.root={tmp_path / 'photos'}")
    change(tmp_path / "photos")
    assert command("train", f"run={place}").message.startswith(message)
    assert RunDirectory.open(place).read_status()["error"] == "ZeroDivisionError: division by zero"  # unchanged


def record(data: VisionData, path: Path, labels: bool = True) -> None:
    names = ["path", "split", "group", "content", *(["labels"] if labels else [])]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(data.splits_rows())


@pytest.mark.parametrize("name", list(FORMATS))
def test_other_formats_that_have_changed(
    name: str, config: Callable[..., Any], small: list[str], tmp_path: Path
) -> None:
    """If a file names an image that no longer exists, the reader itself refuses it."""
    write, overrides = FORMATS[name]
    root = write(tmp_path / "set")
    cfg = config(f"data={name}", f"data.root={root}", *overrides, base=small)
    data, splits = build_data(cfg), tmp_path / "splits.csv"
    record(data, splits)
    build_data(cfg).assign_as(splits, grown=False)
    victim = data.samples("val")[0].path
    paint(root / victim)
    with pytest.raises(UserError, match=f"^1 image has changed since this run started: {re.escape(victim)}$"):
        build_data(cfg).assign_as(splits, grown=False)
    (root / victim).unlink()
    with pytest.raises(UserError, match=re.escape(Path(victim).stem)):
        build_data(cfg).assign_as(splits, grown=False)


def test_a_table_with_another_line(config: Callable[..., Any], small: list[str], tmp_path: Path) -> None:
    write, overrides = FORMATS["csv"]
    root = write(tmp_path / "set")
    lines = (root / "table.csv").read_text().splitlines()
    (root / "table.csv").write_text("\n".join(lines[:-1]) + "\n")
    cfg = config("data=csv", f"data.root={root}", *overrides, base=small)
    data, splits = build_data(cfg), tmp_path / "splits.csv"
    record(data, splits)
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"^1 image is new since this run started: images/p11.jpg. Remove them"):
        build_data(cfg).assign_as(splits, grown=False)
    build_data(cfg).assign_as(splits)  # an evaluation leaves the new image out


@pytest.mark.slow
def test_more_epochs_freeze_nothing_again(command: Command, tiny: list[str], tmp_path: Path) -> None:
    """Half of 2 epochs is 1; half of 4 or of 8 would freeze stages that have already trained."""
    arguments = [*tiny, "strategy=lp_ft", "strategy.probe_epochs=0.5", "trainer.max_epochs=2"]
    run = command("train", *arguments, f"run_dir={tmp_path / 'run'}").run
    for epochs in (4, 8):
        outcome = command("train", f"run={run.path}", f"trainer.max_epochs={epochs}")
        assert outcome.code == 0, outcome.err
        stages = [line.split() for line in outcome.out.splitlines() if line.startswith(("block1 ", "block2 "))]
        assert [f"2-{epochs}" in cells for cells in stages] == [True, True], stages


# Option of `data` -> a file under the root, and a function that changes one label in it.
RELABELLED: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "coco": ("train.json", lambda file: change_json(file, lambda whole: whole["annotations"][0].update(category_id=7))),
    "voc": ("Annotations/p00.xml", lambda file: file.write_text(file.read_text().replace("brick", "tile", 1))),
    "yolo": ("labels/train/p00.txt", lambda file: file.write_text("1" + file.read_text()[1:])),
    "masks": ("masks/p00.png", lambda file: change_pixel(file)),
    "csv": ("table.csv", lambda file: file.write_text(change_area(file.read_text()))),
}


def change_pixel(mask: Path) -> None:
    with Image.open(mask) as image:
        values = np.array(image)
    values[0, 0] = 1
    Image.fromarray(values).save(mask)


def change_area(table: str) -> str:
    """Add 1 to the area of the first image."""
    header, first, *rest = table.splitlines()
    *others, area = first.split(",")
    return "\n".join([header, ",".join([*others, str(float(area) + 1)]), *rest]) + "\n"


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_label_that_has_changed(name: str, config: Callable[..., Any], small: list[str], tmp_path: Path) -> None:
    write, overrides = FORMATS[name]
    root = write(tmp_path / "set")
    cfg = config(f"data={name}", f"data.root={root}", *overrides, base=small)
    splits, older = tmp_path / "splits.csv", tmp_path / "older.csv"
    record(build_data(cfg), splits)
    record(build_data(cfg), older, labels=False)
    shutil.copytree(root, tmp_path / "moved")
    elsewhere = config(f"data={name}", f"data.root={tmp_path / 'moved'}", *overrides, base=small)
    build_data(elsewhere).assign_as(splits, grown=False)  # the folder does not matter
    file, change = RELABELLED[name]
    change(root / file)
    with pytest.raises(UserError, match=r"^1 image has other labels than in this run: \S*p00.jpg. Restore them, or"):
        build_data(cfg).assign_as(splits, grown=False)
    build_data(cfg).assign_as(splits)  # an evaluation accepts corrected labels
    build_data(cfg).assign_as(older, grown=False)  # a run from before labels were hashed
