"""Nothing is written through a link in a run from elsewhere."""

import os
import shutil
from pathlib import Path

import pytest
from running import Command

from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.runs.files import write_json
from visiontune.runs.links import check_links


@pytest.mark.parametrize(
    ("link", "verb"),
    [
        ("report", "train"),
        ("report", "evaluate"),
        ("tensorboard", "train"),
        ("train.log", "train"),
        (".claim", "train"),
        ("checkpoints/last.ckpt", "train"),
        ("predictions", "predict"),
        ("export", "export"),
        ("export/model.onnx", "export"),
        ("export/.model.onnx", "export"),
        ("compressed", "compress"),
    ],
)
def test_nothing_is_written_through_a_link(
    link: str, verb: str, copy: RunDirectory, command: Command, tmp_path: Path, tiles: Path
) -> None:
    outside, path = tmp_path / "outside", copy.path / link
    path.parent.mkdir(exist_ok=True)
    is_folder = link in ("report", "tensorboard", "predictions", "export", "compressed")
    if is_folder:
        outside.mkdir()
        shutil.rmtree(path, ignore_errors=True)
    else:
        outside.write_text("mine")
        path.unlink(missing_ok=True)
    path.symlink_to(outside)
    more = {
        "train": ["epochs=9"],
        "evaluate": ["report=true"],
        "predict": [f"input={tiles}"],
        "compress": ["recipe=int8"],
    }
    message = command(verb, f"run={copy.path}", *more.get(verb, [])).message
    assert message.startswith(f"{path} is a link to {outside}, outside the run {copy.path}: nothing is written through")
    assert list(outside.iterdir()) == [] if is_folder else outside.read_text() == "mine"


def test_links_within_a_run_and_other_entries(tmp_path: Path) -> None:
    (tmp_path / "run/wandb/run-1").mkdir(parents=True)
    (tmp_path / "run/wandb/latest-run").symlink_to("run-1")
    (tmp_path / "run/wandb/run-1/core.log").symlink_to(tmp_path / "cache.log")
    check_links(tmp_path / "run")
    (tmp_path / "run/loop").symlink_to("loop")
    with pytest.raises(UserError, match="loop is a link that leads to itself"):
        check_links(tmp_path / "run")
    (tmp_path / "run/loop").unlink()
    os.mkfifo(tmp_path / "run/train.log")
    with pytest.raises(UserError, match=r"train.log is neither a file nor a folder"):
        check_links(tmp_path / "run")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f"run/.a.json.{os.getpid()}").symlink_to(tmp_path / "mine")
    write_json(tmp_path / "run/a.json", {})
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "run/a.json").read_text() == "{}\n"
