"""What is left when a signal or a disk stops a sweep, a prediction, a write or a logger."""

import csv
import errno
import os
import pickle
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from inputs import write_image
from matplotlib.figure import Figure
from running import TINY, Command

from visiontune import predict, signals, train
from visiontune.data.video import VideoWriter, frame_rate
from visiontune.errors import RunError
from visiontune.loggers import CSVLogger, LoggedRun, MLFlowLogger
from visiontune.loggers.sent import SentRecords
from visiontune.models.heads.drawing import save_figure, save_image
from visiontune.runs import RunDirectory, disk
from visiontune.runs.files import save_atomically, temporary_path, write_atomically, write_json
from visiontune.signals import Interrupted
from visiontune.training.resume import explain_failed_write

HERE = ["sweep.workers=0", "sweep.check=false"]  # the jobs run in this process, where the tests replace functions


def stop(*_: object) -> None:
    signal.raise_signal(signal.SIGTERM)


def use_disk(free: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.shutil, "disk_usage", lambda _: (10**12, 10**12 - free, free))


def failing(number: int) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_has_its_table_whenever_it_stops(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    """The second of three jobs is stopped; the table already had the first one when the second began."""
    original, tables = train.measure, []

    def measure(cfg: Any, run: RunDirectory, *rest: Any) -> Any:
        if run.path.name == "001":
            tables.append(rows(tmp_path / "sweep.csv"))
            stop()
        return original(cfg, run, *rest)

    monkeypatch.setattr(train, "measure", measure)
    outcome = command("train", "-m", *TINY, "probe=false", "seed=1,2,3", *HERE, f"sweep_dir={tmp_path}")
    assert outcome.code == 143 and outcome.err == "stopped by SIGTERM\n"
    assert outcome.out.endswith(f"\nthe sweep was stopped; resume it with: visiontune work {tmp_path}\n")
    assert [row["status"] for row in tables[0]] == ["finished", "running", "waiting"]
    table = {row["run"]: (row["seed"], row["status"]) for row in rows(tmp_path / "sweep.csv")}
    assert table == {"000": ("1", "finished"), "001": ("2", "interrupted"), "002": ("3", "waiting")}
    assert not (tmp_path / "002").exists()


@pytest.mark.slow
def test_a_sweep_with_a_failed_job_has_its_table(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    original = train.measure

    def measure(cfg: Any, *rest: Any) -> Any:
        if cfg.seed == 1:
            raise RunError("no result")
        return original(cfg, *rest)

    monkeypatch.setattr(train, "measure", measure)
    outcome = command("train", "-m", *TINY, "seed=1,2", *HERE, f"sweep_dir={tmp_path}")
    assert outcome.code == 1
    assert outcome.err.startswith("error: 1 job has failed:\n  000: RunError: no result\n")
    table = {row["run"]: row["status"] for row in rows(tmp_path / "sweep.csv")}
    assert table == {"001": "finished", "000": "failed"}


def test_a_plan_and_a_sweep_check_the_disk(
    plan: Callable[..., Any], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_disk(10_000_000, monkeypatch)
    message = plan("data=digits", "data.limit_train=64").message
    assert message.startswith(f"the disk of {tmp_path} has 10 MB free, and the run needs 10 MB: 4 checkpoints")
    # A network of 3.3 MB: with its average, best.ckpt has at least 6.6 MB; with Adam's moments, last.ckpt has 13.1 MB.
    sweep = [*TINY, "backbone.widths=[300,300]", f"sweep_dir={tmp_path / 'sweep'}"]
    use_disk(30_000_000, monkeypatch)
    message = command("train", "-m", *sweep, "strategy=full", "seed=1,2,3").message
    assert message.startswith(f"the disk of {tmp_path} has 30 MB free, and the 3 jobs need at least 59 MB: each keeps")
    message = command("train", "-m", *sweep, "strategy=full,linear_probe", "seed=1,2").message
    assert "the 4 jobs need at least 66 MB" in message and list(tmp_path.iterdir()) == []


def test_a_signal_while_a_video_is_drawn_leaves_none(
    run: RunDirectory, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "a.mp4", Fraction(8)) as video:
        for i in range(4):
            video.write(torch.full((3, 32, 48), 40 * i, dtype=torch.uint8))
    arguments = [f"run={run.path}", f"input={tmp_path / 'a.mp4'}", f"output={tmp_path / 'out'}", "batch_size=2"]
    with monkeypatch.context() as patch:
        original = VideoWriter.write
        patch.setattr(VideoWriter, "write", lambda self, image: (original(self, image), stop()))
        assert command("predict", *arguments).code == 143
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "a.mp4"]
    assert command("predict", *arguments).code == 0
    assert [path.name for path in (tmp_path / "out" / "images").iterdir()] == ["a.mp4"]
    assert frame_rate(tmp_path / "out" / "images" / "a.mp4") == 8


def test_a_prediction_that_was_stopped_can_run_again(
    run: RunDirectory, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_image(tmp_path / "photos" / f"{name}.png")
    output = tmp_path / "out"
    arguments = [f"run={run.path}", f"input={tmp_path / 'photos'}", f"output={output}", "batch_size=1"]
    with monkeypatch.context() as patch:
        patch.setattr(predict, "save_image", lambda image, path: (save_image(image, path), stop()))
        assert command("predict", *arguments).code == 143
    assert not [path for path in output.rglob("*") if path.is_file()]
    assert command("predict", *arguments).code == 0
    assert sorted(path.name for path in (output / "images").iterdir()) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(("second", "content"), [(False, "new and complete"), (True, "old")])
def test_a_signal_while_a_file_is_written(
    second: bool, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first signal waits until the file is complete; the second does not, and the old file stays."""
    path, clock = tmp_path / "table.csv", [0.0]
    path.write_text("old")
    monkeypatch.setattr(signals.time, "monotonic", lambda: clock[0])

    def write() -> None:
        with signals.listen(), write_atomically(path) as file:
            file.write("new ")
            stop()
            clock[0] += 2
            if second:
                stop()
            file.write("and complete")

    with pytest.raises(Interrupted, match="SIGTERM"):
        write()
    assert path.read_text() == content and [*tmp_path.iterdir()] == [path]


def test_a_second_signal_in_a_checkpoint_is_no_error_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def interrupt(data: bytes) -> int:
        raise Interrupted(signal.SIGTERM)

    @contextmanager
    def open_interrupted(self: Path, *arguments: Any) -> Iterator[Any]:
        with original(self, *arguments) as file:
            yield SimpleNamespace(write=interrupt, flush=file.flush)

    monkeypatch.setattr(Path, "open", open_interrupted)
    with pytest.raises(Interrupted, match="SIGTERM"):
        save_atomically(tmp_path / "a.ckpt", {"weights": torch.zeros(100_000)})
    assert [*tmp_path.iterdir()] == []


def test_a_temporary_file_has_a_valid_name_and_the_suffix(tmp_path: Path) -> None:
    for name in ("a.png", "é" * 120 + ".png", "x" * 255, "caf\udce9.pt2"):
        with temporary_path(tmp_path / name) as temporary:
            temporary.write_text("new")
            assert temporary.name.startswith(".") and temporary.suffix == Path(name).suffix
        assert (tmp_path / name).read_text() == "new"
    assert len([*tmp_path.iterdir()]) == 4


def test_a_library_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def savefig(self: Figure, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.raises(OSError, match="No space left") as error:
        save_figure(Figure(), tmp_path / "a.png")
    assert error.value.filename == str(tmp_path / "a.png") and [*tmp_path.iterdir()] == []


def test_a_signal_while_a_run_is_created_is_in_its_status(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    original = train.record
    with monkeypatch.context() as patch:
        patch.setattr(train, "record", lambda *arguments: (stop(), original(*arguments)))
        outcome = command("train", *TINY, f"run_dir={tmp_path / 'run'}")
    run = RunDirectory.open(tmp_path / "run")
    assert outcome.code == 143 and run.read_status()["status"] == "interrupted"
    assert outcome.out == f"\ninterrupted by SIGTERM; resume with: visiontune train run={run.path}\n"
    assert "resume with" in run.log.read_text()


def test_an_interruption_survives_the_pipe_of_a_launcher() -> None:
    error = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM)))
    assert (error.number, str(error)) == (15, "SIGTERM")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EROFS, "Read-only file system. Make its folder writable"),
        (errno.EACCES, "Permission denied. Make its folder writable"),
        (errno.EDQUOT, "Disk quota exceeded. Free some space"),
    ],
)
def test_a_run_that_can_no_longer_be_written(
    number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a status of its own, a run without a process is stopped."""
    run = RunDirectory.create(tmp_path / "run")

    def work() -> None:
        with run.running(), explain_failed_write(run):
            monkeypatch.setattr("visiontune.runs.files._sync", failing(number))
            monkeypatch.setattr(Path, "unlink", failing(number))
            write_json(run.metrics, {})

    with pytest.raises(RunError) as error:
        work()
    assert str(error.value) == (
        f"{run.metrics} could not be written: {advice}, then resume the run with: visiontune train run={run.path}"
    )
    assert run.read_status()["status"] == "stopped"


def test_a_file_of_the_user_that_cannot_be_read_is_another_error(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(PermissionError), explain_failed_write(run):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "photo.png"))


def test_a_row_that_does_not_fit_on_the_disk_leaves_no_half(tmp_path: Path) -> None:
    logger, sent = CSVLogger(LoggedRun(tmp_path, "a")), SentRecords(tmp_path / "loggers" / "sent.csv")
    writes = {
        tmp_path / "csv" / "scalars.csv": lambda step: logger.log_metrics({"loss": 1.0}, step),
        sent.path: lambda step: sent.add(["loss"], step),
    }
    for path, write in writes.items():
        write(1)
        before = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 3, limits[1]))  # in place of a full disk
        try:
            with pytest.raises(OSError, match="File too large") as error:
                write(2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert error.value.filename == str(path) and path.read_bytes() == before
        write(3)


@pytest.mark.parametrize(
    ("text", "number"),
    [("database or disk is full", errno.ENOSPC), ("attempt to write a readonly database", errno.EROFS)],
)
def test_sqlite_names_its_file(text: str, number: int, tmp_path: Path) -> None:
    logger = object.__new__(MLFlowLogger)
    logger.database = tmp_path / "mlflow.db"
    with pytest.raises(OSError, match=os.strerror(number)) as error, logger._named_errors():
        raise RuntimeError(f"(sqlite3.OperationalError) {text}\n[SQL: INSERT INTO metrics]")
    assert (error.value.errno, error.value.filename) == (number, str(logger.database))


MOMENTS = {
    "probe": ("visiontune.callbacks.ProbeInitialization._embed", ["probe=true"]),
    "last training step": ("visiontune.models.finetuner.FineTuner.on_train_batch_end", []),
    "report": ("visiontune.analysis.results.write_page", []),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_of_a_run(
    moment: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, keys = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(target, stop)
        outcome = command("train", *TINY, *keys, f"run_dir={tmp_path / 'run'}")
    run = RunDirectory.open(tmp_path / "run")
    assert outcome.code == 143 and outcome.err == "stopped by SIGTERM\n"
    assert outcome.out.endswith(f"interrupted by SIGTERM; resume with: visiontune train run={run.path}\n")
    assert run.read_status()["status"] == "interrupted"
    assert [path.name for path in run.path.rglob(".*")] == [".claim"]
    assert command("train", f"run={run.path}").run.finished


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "keys"),
    [
        ("visiontune.search.lr_range._RisingLr.on_train_batch_end", ["optimizer.lr=auto"]),
        ("visiontune.models.finetuner.FineTuner.on_train_batch_end", ["search=strategy", "search.lr_range_test=false"]),
    ],
)
def test_a_signal_in_a_search_leaves_nothing(
    target: str, keys: list[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, stop)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcome = command("train", *TINY, *keys, f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 143 and outcome.err == "stopped by SIGTERM\n" and "resume" not in outcome.out
    assert [*tmp_path.iterdir()] == []
