"""Reading a run runs no code from its directory."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from running import Command

from visiontune import __version__
from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.training.load import check_trusted, load_model, open_run, read_checkpoint


class Trap:
    """Unpickling it creates the file `target`."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    file, sprung = tmp_path / "a.ckpt", tmp_path / "sprung"
    torch.save({"visiontune": {}, "state_dict": Trap(sprung)}, file)
    with pytest.raises(UserError, match=r"a.ckpt cannot be read as a checkpoint: "):
        read_checkpoint(file)
    file.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(UserError, match=r"a.ckpt cannot be read as a checkpoint: "):
        read_checkpoint(file)
    assert not sprung.exists()


def test_a_foreign_checkpoint(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"is not a checkpoint of this project: write a file of weights as backbone"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("node", "where"),
    [
        ({"a": {"_target_": "os.system", "command": "x"}}, "a._target_=os.system"),
        ({"a": {"b": [{"_target_": "subprocess.run"}]}}, "a.b[0]._target_=subprocess.run"),
        ({"a": {"_target_": "torchlike.Model"}}, "a._target_=torchlike.Model"),
        ({"a": {"_target_": "torch.utils.collect_env.run"}}, "a._target_=torch.utils.collect_env.run"),
        ({"a": {"_target_": "torch.hub.load"}}, "a._target_=torch.hub.load"),
        ({"a": {"_target_": "torch.utils.data.DataLoader"}}, "a._target_=torch.utils.data.DataLoader"),
        (
            {"a": {"_target_": "visiontune.runs.environment.subprocess.run"}},
            "a._target_=visiontune.runs.environment.subprocess.run",
        ),
        (
            {"a": {"_target_": "visiontune.training.build.instantiate"}},
            "a._target_=visiontune.training.build.instantiate",
        ),
    ],
)
def test_foreign_classes_are_refused(node: dict[str, Any], where: str) -> None:
    cfg = OmegaConf.create(node)
    with pytest.raises(UserError) as error:
        check_trusted(cfg)
    assert str(error.value) == (
        f"the run's config names {where}, which is outside the places for classes; write trust=true if you know where "
        "the run comes from"
    )
    check_trusted(cfg, trust=True)


def test_a_run_of_this_package_is_trusted_and_its_model_has_the_weights_of_the_checkpoint(run: RunDirectory) -> None:
    opened, cfg = open_run(str(run.path))
    assert opened.path == run.path
    for which in ("best", "last"):
        model, schema = load_model(opened, cfg, which)
        state = read_checkpoint(run.checkpoint(which))["state_dict"]
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert {task: info.classes for task, info in schema.items()} == {"classification": ["brick", "grass", "sky"]}
        assert model.heads["classification"].classes == ["brick", "grass", "sky"]


@pytest.mark.parametrize("old", ["target", "group"])
@pytest.mark.parametrize("verb", ["evaluate", "predict", "export", "train"])
def test_a_run_of_an_older_version_is_one_message(
    old: str, verb: str, run: RunDirectory, command: Command, tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    older = RunDirectory.open(tmp_path / "run")
    text = older.config.read_text()
    old_target = text.replace("visiontune.models.heads.ClassificationHead", "visiontune.heads.ClassificationHead")
    older.config.write_text(old_target if old == "target" else text.replace("\ntechnique:", "\ntechniques:"))
    older.environment.write_text('{"packages": {"visiontune": "0.1.0"}, "overrides": []}')
    more = ["input=x"] if verb == "predict" else []
    message = command(verb, f"run={older.path}", *more).message
    assert message.startswith(f"{older.config} was written by visiontune 0.1.0, and this is {__version__}: ")
    assert message.endswith(f"or start a new run from its weights with backbone.weights={older.path}")


def test_a_class_that_a_library_lacks_is_one_message(run: RunDirectory, command: Command, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    other = RunDirectory.open(tmp_path / "run")
    other.config.write_text(other.config.read_text().replace("torch.optim.AdamW", "torch.optim.AdamX"))
    message = command("evaluate", f"run={other.path}").message
    assert message.startswith(f"{other.config} names optimizer._target_=torch.optim.AdamX, which the installed torch")
    assert message.endswith(f"install the version that is in {other.environment}")


@pytest.mark.parametrize("environment", ['{"packages": {}, "overrides": []}', None])
def test_a_run_without_a_version(environment: str | None, run: RunDirectory, command: Command, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    other = RunDirectory.open(tmp_path / "run")
    other.config.write_text(other.config.read_text().replace("\ntechnique:", "\ntechniques:"))
    other.environment.unlink()
    if environment:
        other.environment.write_text(environment)
    message = command("evaluate", f"run={other.path}").message
    assert message.startswith(f"{other.config} was written by another version of visiontune, and this is ")
