"""Each verb that reads a run from elsewhere runs none of its code and writes nothing outside, without `trust=true`."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from running import Command, mostly_slow

from visiontune.config.compose import train_config
from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.runs.files import write_json
from visiontune.training.load import open_run
from visiontune.training.resume import resume_config
from visiontune.training.trusted import check_overrides


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Content, or target, of every file and link."""
    paths = [Path(parent, name) for parent, _, files in os.walk(folder) for name in files]
    return {str(path): os.readlink(path) if path.is_symlink() else path.read_bytes() for path in paths}


VERBS: dict[str, list[str]] = {
    "evaluate": ["run=RUN"],
    "predict": ["run=RUN", "input=RUN"],
    "export": ["run=RUN", "format=onnx"],
    "compress": ["run=RUN", "recipe=int8"],
    "train": ["run=RUN"],
    "train from": ["weights_from=RUN"],
    "train with": ["distill.teacher=RUN"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_refuses_a_foreign_run(
    verb: str, copy: RunDirectory, command: Command, tiny: list[str], tmp_path: Path
) -> None:
    cfg, file = copy.read_config(), tmp_path / "written"
    arguments = [str(copy.path), "--csv", str(file)]
    OmegaConf.update(cfg, "optimizer", {"_target_": "visiontune.compare.main", "arguments": arguments}, merge=False)
    copy.write_config(cfg)
    before = snapshot(tmp_path)
    overrides = [override.replace("RUN", str(copy.path)) for override in VERBS[verb]]
    overrides += [*tiny, f"run_dir={tmp_path / 'new'}"] if " " in verb else []
    message = command(verb.split()[0], *overrides).message
    assert message.startswith(
        "the run's config names optimizer._target_=visiontune.compare.main, which is outside what"
    )
    assert snapshot(tmp_path) == before and not file.exists()


@pytest.mark.parametrize("verb", ["compare", "backbone.weights"])
def test_verbs_that_build_nothing_from_the_config(
    verb: str,
    run: RunDirectory,
    copy: RunDirectory,
    command: Command,
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "the password")
    copy.config.write_text(copy.config.read_text() + "secret: ${oc.env:SECRET}\n")
    if verb == "compare":
        copy.environment.write_text("{}")  # its values of the keys of the other run are those of its config
        outcome = command("compare", copy.path, run.path)
        assert outcome.message.startswith(f"{copy.config}: secret=${{oc.env:SECRET}} is not a plain reference")
        assert not (copy.path / "sweep.csv").exists()
    else:
        torch.save({"visiontune": {}, "state_dict": Path("/x")}, copy.checkpoint("best"))
        assert (
            "not a readable checkpoint of plain tensors"
            in command("plan", *tiny, f"backbone.weights={copy.path}").message
        )


def test_a_run_gives_itself_no_trust(copy: RunDirectory, tmp_path: Path) -> None:
    teacher = RunDirectory(tmp_path / "teacher")
    shutil.copytree(copy.path, teacher.path)
    cfg = teacher.read_config()
    cfg.callbacks.mine = {"_target_": "elsewhere.Callback"}
    teacher.write_config(cfg)
    cfg = copy.read_config()
    cfg.trust, cfg.distill.teacher = True, str(teacher.path)
    copy.write_config(cfg)
    with pytest.raises(UserError, match=r"callbacks.mine._target_=elsewhere.Callback"):
        resume_config(copy, ["epochs=9"])
    cfg.distill.teacher = None
    copy.write_config(cfg)
    assert resume_config(copy, ["epochs=9"])[0].trust is False
    assert resume_config(copy, ["epochs=9", "trust=true"])[0].trust is True


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_an_exported_program_needs_trust(verb: str, copy: RunDirectory, command: Command, tiles: Path) -> None:
    copy.exports.mkdir()
    (copy.exports / "model.pt2").write_bytes(b"a pickle")
    more = [f"input={tiles}"] if verb == "predict" else []
    message = command(verb, f"run={copy.path}", "backend=torch_export", *more).message
    assert message.startswith(f"{copy.exports / 'model.pt2'} is unpickled when it is opened, which can run any code")
    copy.config.write_text(copy.config.read_text() + "backend: torch_export\n")
    assert command(verb, f"run={copy.path}", *more).message == message
    outcome = command(verb, f"run={copy.path}", "trust=true", *more)
    assert outcome.code == 2 and "is not a file of visiontune export" in outcome.err


def test_the_command_line_of_a_run_is_checked_before_it_is_composed_again() -> None:
    check_overrides(["data=digits", "strategy=full", "run_dir=/runs/1", "optimizer.lr=1e-3"])
    for override in (
        "optimizer._target_=visiontune.compare.main",
        "+callbacks.x={_target_: os.system, command: x}",
        "note=${oc.env:HOME}",
        "hydra.searchpath=[file:///elsewhere]",
        "optimizer=../../../elsewhere/evil",
        "+experiment=[/elsewhere/evil]",
        "logger.tensorboard._target_=lightning.pytorch.loggers.CSVLogger",
    ):
        with pytest.raises(UserError, match="trust=true"):
            check_overrides([override])
        check_overrides([override], trust=True)


def test_steps_that_lie_in_a_foreign_run_are_checked(copy: RunDirectory, command: Command) -> None:
    step = copy.path / "compressed/distill/0_distill"
    step.mkdir(parents=True)
    cfg = copy.read_config()
    cfg.callbacks.mine = {"_target_": "os.system", "command": "x"}
    RunDirectory(step).write_config(cfg)
    before = snapshot(copy.path)
    assert "callbacks.mine._target_=os.system" in command("compress", f"run={copy.path}", "recipe=distill").message
    assert snapshot(copy.path) == before


def test_a_run_downloads_nothing(copy: RunDirectory, command: Command, tmp_path: Path) -> None:
    cfg = copy.read_config()
    root = tmp_path / "empty"
    composed = train_config(["data=torchvision", "data.name=CIFAR10", f"data.root={root}"])
    cfg.data = OmegaConf.to_container(composed.data, resolve=True)
    copy.write_config(cfg)
    assert "CIFAR10 is not under data_root" in command("evaluate", f"run={copy.path}").message
    assert not root.exists()


def test_a_run_without_a_checkpoint_downloads_no_weights(
    copy: RunDirectory, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    shutil.rmtree(copy.checkpoints)
    cfg = copy.read_config()
    cfg.backbone = {"name": "shufflenet_v2_x0_5", "weights": "default", "library": "auto", "min_matched": 0.5}
    copy.write_config(cfg)
    before = snapshot(tmp_path)
    assert command("train", f"run={copy.path}", "epochs=9").message == (
        f"{copy.path} has no checkpoint, and it begins with weights that would have to be downloaded (torchvision "
        "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1): write trust=true to download them"
    )
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "address", mostly_slow(["http://example.org", "sqlite:///OUTSIDE/a.db", "file:///OUTSIDE"], "http://example.org")
)
def test_the_remembered_address_of_a_logger(address: str, copy: RunDirectory, command: Command, tmp_path: Path) -> None:
    (copy.path / "loggers").mkdir()
    address = address.replace("OUTSIDE", str(tmp_path / "outside"))
    write_json(copy.path / "loggers/mlflow.json", {"tracking_uri": address})
    before = snapshot(tmp_path)
    message = command("train", f"run={copy.path}", "epochs=9").message
    assert message.startswith(f"{copy.path / 'loggers/mlflow.json'} has tracking_uri={address}, which leads outside")
    assert snapshot(tmp_path) == before
    database = copy.path.parent / "mlflow.db"  # beside the run, where it has been since the run began
    database.touch()
    write_json(copy.path / "loggers/mlflow.json", {"tracking_uri": f"sqlite:///{database}"})
    open_run(str(copy.path), loggers=True)


def test_an_own_run_opens(run: RunDirectory) -> None:
    opened, cfg = open_run(str(run.path), loggers=True)
    assert opened.path == run.path and cfg.optimizer._target_ == "torch.optim.AdamW"
