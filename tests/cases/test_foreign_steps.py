"""`compress` on a run from elsewhere: nothing that lies in it gets more trust than the command gives."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Command

from visiontune.compression.train_step import merge_overrides
from visiontune.errors import UserError
from visiontune.runs import RunDirectory

EVIL = "evil_code"


@pytest.fixture
def evil(copy: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDirectory]:
    """A run whose config names a callback that writes a file when it is imported; fails if that happens."""
    module = f"open({str(tmp_path / 'written')!r}, 'w')\nimport lightning as L\nclass C(L.Callback): pass\n"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{EVIL}.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    run = RunDirectory(tmp_path / "evil")
    shutil.copytree(copy.path, run.path)
    cfg = run.read_config()
    cfg.callbacks.mine = {"_target_": f"{EVIL}.C"}
    cfg.trainer.max_epochs = 9
    run.write_config(cfg)
    yield run
    assert not (tmp_path / "written").exists() and EVIL not in sys.modules


def interrupt(run: RunDirectory) -> None:
    status = json.loads(run.status.read_text())
    run.status.write_text(json.dumps(status | {"status": "interrupted"}))


def test_the_overrides_of_a_run_give_no_trust(copy: RunDirectory, evil: RunDirectory, command: Command) -> None:
    assert merge_overrides(["trust=true", "seed=1"], ["epochs=2"]) == ["seed=1", "epochs=2"]
    cfg = copy.read_config()
    cfg.distill.teacher = str(evil.path)
    copy.write_config(cfg)
    environment = json.loads(copy.environment.read_text())
    environment["overrides"].insert(0, "trust=true")
    copy.environment.write_text(json.dumps(environment))
    message = command("compress", f"run={copy.path}", "recipe=sparsify").message
    assert "callbacks.mine._target_=evil_code.C" in message


def test_the_teacher_of_a_step(copy: RunDirectory, evil: RunDirectory, command: Command) -> None:
    step = RunDirectory(copy.path / "compressed/distill/0_distill")
    shutil.copytree(copy.path, step.path)
    cfg = step.read_config()
    cfg.distill.teacher, cfg.trainer.max_epochs = str(evil.path), 9
    step.write_config(cfg)
    interrupt(step)
    message = command("compress", f"run={copy.path}", "recipe=distill").message
    assert "callbacks.mine._target_=evil_code.C" in message


def test_a_step_that_is_a_link(copy: RunDirectory, evil: RunDirectory, command: Command) -> None:
    shutil.copytree(evil.path, copy.path / "hidden")
    interrupt(RunDirectory(copy.path / "hidden"))
    link = copy.path / "compressed/distill/0_distill"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../hidden")
    message = command("compress", f"run={copy.path}", "recipe=distill").message
    assert message.startswith(f"{link} is a link: the runs of the steps are folders")


@pytest.mark.parametrize("override", ["=3", "a='", "..x=1", "\x1b=1"])
def test_overrides_that_cannot_be_read(override: str, copy: RunDirectory, command: Command) -> None:
    copy.environment.write_text(json.dumps({"overrides": [override]}))
    outcome = command("compress", f"run={copy.path}", "recipe=sparsify")
    assert outcome.message.startswith("the overrides in the run's environment.json cannot be read")
    assert "\x1b" not in outcome.err + command("compare", copy.path).out


@pytest.mark.parametrize("override", ["a='", "..x=1"])
def test_overrides_that_compare_cannot_read(
    override: str, run: RunDirectory, copy: RunDirectory, command: Command
) -> None:
    copy.environment.write_text(json.dumps({"overrides": [override]}))
    assert command("compare", copy.path, run.path).message.startswith(
        "environment.json of a run has an override that cannot"
    )


@pytest.mark.parametrize("overrides", [["a=1"] * 1001, ["a=" + "1" * 10_000]])
def test_overrides_are_bounded(overrides: list[str], copy: RunDirectory) -> None:
    copy.environment.write_text(json.dumps({"overrides": overrides}))
    with pytest.raises(UserError, match="expected at most 1000 overrides of 10000 characters"):
        copy.read_overrides()
