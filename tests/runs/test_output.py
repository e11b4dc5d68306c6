"""The folder of a command's output is checked before anything is loaded."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from running import Command

from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.runs.output import check_output


def test_folders_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_output(tmp_path) == tmp_path
    assert check_output(tmp_path / "a" / "b (1)") == tmp_path / "a" / "b (1)"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_output(Path("~/new"), [Path("old/a.png"), tmp_path / "newer" / "a.png"]) == tmp_path / "new"
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    assert check_output(tmp_path / "link" / "c") == tmp_path / "link" / "c"
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    long = tmp_path / ("x" * 300)
    for folder, reason in (
        (Path("/proc/nope"), "No such file or directory"),
        (Path("/proc/nope/deeper"), "No such file or directory"),
        (tmp_path / "file" / "a" / "b", f"{tmp_path / 'file'} is a file"),
        (tmp_path / "link" / "a", f"{tmp_path / 'link'} is a broken link"),
        (long, "File name too long"),
    ):
        with pytest.raises(UserError) as error:
            check_output(folder)
        assert str(error.value) == (
            f"cannot write to {folder}: {reason}; write output=DIR with a folder that you may write to"
        )
    with pytest.raises(UserError, match=r"file is a file: write a folder, such as output=.*/file_output$"):
        check_output(tmp_path / "file")

    def refuse(dir: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"Permission denied; write run_dir=DIR or paths\.logs=DIR with"):
        check_output(tmp_path, key="run_dir or paths.logs")


def test_an_output_holds_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.png").symlink_to(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    for folder, path in ((".", "photos/a.png"), ("link", "photos/a.png"), ("photos", "other/b.png"), ("x/..", "x/a")):
        with pytest.raises(UserError, match=rf"output={folder} holds an input, {path}, which could be overwritten"):
            check_output(Path(folder), [Path(path)])
    assert check_output(Path("photos/new"), [Path("photos/a.png")]) == Path("photos/new")


def test_a_run_directory_is_no_output(run: RunDirectory, command: Command) -> None:
    before = run.metrics.read_bytes()
    message = command("evaluate", f"run={run.path}", f"output={run.path}").message
    assert message == f"{run.path} is a run directory: write another folder, such as output=results"
    assert run.metrics.read_bytes() == before


@pytest.mark.parametrize("verb", ["evaluate", "export", "compress"])
def test_verbs_refuse_before_they_load_the_model(
    verb: str, run: RunDirectory, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visiontune.training.load.read_checkpoint", lambda path: pytest.fail(f"{path} is read"))
    more = ["recipe=int8"] if verb == "compress" else []
    message = command(verb, f"run={run.path}", *more, "output=/proc/nope").message
    assert message.startswith("cannot write to /proc/nope: ") and message.endswith(
        "write output=DIR with a folder that you may write to"
    )


def test_a_table_that_cannot_be_written(run: RunDirectory, command: Command, tmp_path: Path) -> None:
    before = run.history.read_bytes()
    for target, message in (
        ("/proc/nope/t.csv", "cannot write to /proc/nope/t.csv: No such file or directory; write --csv FILE in a"),
        (tmp_path, f"--csv {tmp_path} is not a file: write a file, such as --csv {tmp_path}/table.csv"),
        ("/dev/null", "--csv /dev/null is not a file: write a file, such as --csv table.csv"),
        (run.history, f"{run.history} is in a run directory: write another file, such as --csv table.csv"),
    ):
        assert command("compare", run.path, "--csv", target).message.startswith(message)
    assert run.history.read_bytes() == before and not Path("/dev/null").is_file()
    assert command("compare", run.path, "--csv", tmp_path / "new" / "t.csv").code == 0
    assert (tmp_path / "new" / "t.csv").is_file()


def test_plan_and_train_name_a_run_directory_that_cannot_be_used(
    command: Command, tiny: list[str], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("dear")
    for verb in ("plan", "train"):
        for override, message in (
            ("run_dir=/proc/nope", "cannot write to /proc/nope: No such file or directory; write run_dir=DIR or "),
            ("paths.logs=/proc/nope", "cannot write to /proc/nope/digits/TIME-ID: No such file or directory; write "),
            (f"run_dir={tmp_path / 'full'}", f"{tmp_path / 'full'} is not empty: write another run_dir=DIR"),
        ):
            assert command(verb, *tiny, override).message.startswith(message)
