"""Every tracking tool gets the same scalars, images and hyper-parameters; a resumed run is one run in each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig
from reading import check_same, from_csv, from_mlflow, from_tensorboard, from_wandb, wandb_records
from running import Command

from visiontune.loggers import build
from visiontune.models.finetuner import FineTuner
from visiontune.runs import RunDirectory

STEPS = 4  # of 16 images, in each of two epochs
LOCAL = ["logger=[tensorboard,csv,wandb]", "logger.wandb.offline=true"]


class Killed(BaseException):
    """Ends the run like a kill: nothing is written afterwards."""


@pytest.fixture
def settings(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides of a run of eight steps; W&B prints nothing."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    base = [override for override in tiny if override not in ("logger=none", "trainer.max_epochs=1")]
    return [*base, "trainer.max_epochs=2", "data.batch_size=16", "trainer.log_every_n_steps=1", "tags=[baseline,b]"]


def kill_before(step: int, patch: pytest.MonkeyPatch) -> None:
    begin = FineTuner.on_train_batch_start

    def hook(self: Any, *arguments: Any) -> None:
        if self.current_epoch * STEPS + arguments[-1] == step:
            raise Killed
        begin(self, *arguments)

    patch.setattr(FineTuner, "on_train_batch_start", hook)


def train_in_parts(command: Command, arguments: list[str], folder: Path, patch: Callable[..., Any]) -> RunDirectory:
    """A run that is killed before its seventh step and resumed from its last checkpoint."""
    with patch() as context:
        kill_before(6, context)
        with pytest.raises(Killed):
            command("train", *arguments, "checkpoints.every_steps=3", f"run_dir={folder}")
    return command("train", f"run={folder}").run


@pytest.mark.slow
def test_all_have_the_same_scalars_and_images_and_a_resumed_run_is_one_run(
    command: Command, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_in_parts(command, [*settings, *LOCAL, "note=hello"], tmp_path / "parts", monkeypatch.context)
    scalars, images = from_tensorboard(run.path)
    assert [step for step, _ in scalars["lr/heads"]] == list(range(8))
    assert (
        scalars["train/loss_step"] == sorted(set(scalars["train/loss_step"])) and len(scalars["train/loss_step"]) == 8
    )
    metrics = json.loads(run.metrics.read_text())
    best = {name: value for name, ((_, value),) in ((n, v) for n, v in scalars.items() if n.startswith("best/"))}
    assert best == pytest.approx({f"best/{name}": value for name, value in metrics.items()}, rel=1e-6)
    assert set(images) >= {"first_batch", "test/classification/confusion_matrix", "test/classification/worst"}
    assert all(len(points) == 1 for points in images.values())
    check_same((from_csv(run.path), images), (scalars, images))
    check_same(from_wandb(run.path), (scalars, images))

    starts = [record.run for _, record in wandb_records(run.path) if record.WhichOneof("record_type") == "run"]
    assert {start.run_id for start in starts} == {json.loads((run.path / "loggers/wandb.json").read_text())["id"]}
    first = starts[0]
    assert (first.display_name, first.project, first.notes) == ("parts", "digits", "hello")
    assert list(first.tags) == ["baseline", "b"] and first.run_group == ""
    updates = [r.config.update for _, r in wandb_records(run.path) if r.WhichOneof("record_type") == "config"]
    config = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for part in updates for item in part}
    params = yaml.safe_load((run.path / "csv" / "hparams.yaml").read_text())
    assert params["optimizer"] == "AdamW" and params["optimizer.lr"] == 5e-4 and params["trainer.max_epochs"] == 2
    assert {name: config[name] for name in params} == params
    environment = json.loads(run.environment.read_text())
    assert environment["tags"] == ["baseline", "b"] and environment["note"] == "hello"


@pytest.mark.slow
def test_mlflow_has_the_same_as_the_others_of_one_training_and_a_resumed_run_is_one_run(
    command: Command, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'tracking' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # another address would need trust=true to resume
    loggers = ["logger=[tensorboard,csv,wandb,mlflow]", "logger.wandb.offline=true"]
    arguments = [*settings, *loggers, "note=hello"]
    run = train_in_parts(command, [*arguments, "logger.mlflow.log_artifacts=true"], tmp_path / "x", monkeypatch.context)
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'digits'")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.run_id == json.loads((run.path / "loggers/mlflow.json").read_text())["run_id"]
    assert logged.info.status == "FINISHED" and logged.info.run_name == "x"
    assert logged.data.tags["baseline"] == "true" and logged.data.tags["mlflow.note.content"] == "hello"
    assert logged.data.params["optimizer.lr"] == "0.0005" and logged.data.params["optimizer"] == "AdamW"
    scalars, images = from_tensorboard(run.path)
    check_same(from_mlflow(uri, logged.info.run_id), (scalars, images))
    check_same(from_wandb(run.path), (scalars, images))
    check_same((from_csv(run.path), images), (scalars, images))
    files = {file.path for file in client.list_artifacts(logged.info.run_id)}
    assert files >= {"config.yaml", "metrics.json", "predictions.csv", "checkpoints", "report"}
    stored = Path(logged.info.artifact_uri.removeprefix("file://"))
    assert stored.is_relative_to(tmp_path / "tracking" / "mlflow")
    assert (stored / "checkpoints" / "best.ckpt").read_bytes() == run.checkpoint("best").read_bytes()


@pytest.mark.slow
def test_each_job_of_a_sweep_is_a_run_in_the_group_of_the_sweep(
    command: Command, settings: list[str], tmp_path: Path
) -> None:
    overrides = [
        "logger=wandb",
        "logger.wandb.offline=true",
        "test=false",
        "sweep.workers=0",
        f"sweep_dir={tmp_path / 'lr'}",
    ]
    assert command("train", "-m", "optimizer.lr=1e-3,1e-2", *settings, *overrides).code == 0
    starts = [
        record.run
        for job in ("000", "001")
        for _, record in wandb_records(tmp_path / "lr" / job)
        if record.WhichOneof("record_type") == "run"
    ]
    assert {(start.display_name, start.run_group) for start in starts} == {
        ("lr/000 optimizer.lr=0.001", "lr"),
        ("lr/001 optimizer.lr=0.01", "lr"),
    }
    assert len({start.run_id for start in starts}) == 2
    assert not (tmp_path / "lr" / "000" / "tensorboard").exists()


class Broken(build.Logger):
    """A logger that fails after the training."""

    name, version = "broken", ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(name.startswith("best/") for name in metrics):
            raise ConnectionError("no network")

    def log_hyperparams(self, *arguments: Any, **more: Any) -> None:
        pass

    def finalize(self, status: str) -> None:
        raise ConnectionError(f"cannot finalize a {status}")


def test_a_finished_training_stays_finished_whatever_a_logger_raises(command: Command, settings: list[str]) -> None:
    outcome = command("train", *settings, "logger=none", "+logger.broken._target_=test_loggers.Broken")
    assert outcome.run.read_status()["status"] == "finished"
    assert "warning: Broken: ConnectionError: cannot finalize a success" in outcome.out
    assert "warning: Broken: ConnectionError: no network" in outcome.out


WRONG = [
    (
        ["logger=tensorboard", "+logger.tensorboard.color=red"],
        "logger.tensorboard.color: visiontune.loggers.TensorBoardLogger has no argument color",
    ),
    (["logger=wandb", "+logger.wandb.color=red"], "logger.wandb.color: unknown key; write one of "),
    (["logger=wandb"], "run `wandb login`, or write logger.wandb.offline=true"),
    (
        ["logger=mlflow", "+logger.mlflow.uri=x"],
        "logger.mlflow.uri: visiontune.loggers.MLFlowLogger has no argument uri; its arg",
    ),
    (["logger=mlflow", "logger.mlflow.tracking_uri=logs"], "logger.mlflow.tracking_uri=logs: expected an address"),
    (["logger=mlflow", "logger.mlflow.tracking_uri=null"], "logger.mlflow.tracking_uri=null: expected an address"),
    (["logger=csv", "logger.csv._target_=visiontune.loggers.Nothing"], "such as visiontune.loggers.CSVLogger"),
    (["tags=first"], "tags=first: expected a list of words, got text; write tags=[baseline,v2]"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG)
def test_wrong_settings_are_refused_before_the_run_begins(
    overrides: list[str],
    message: str,
    command: Command,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    base = [override for override in tiny if override != "logger=none"]
    assert message in command("train", *base, *overrides, f"run_dir={tmp_path / 'run'}").message
    assert not (tmp_path / "run").exists()


def test_a_missing_library_is_one_message(
    config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "find_spec", lambda _: None)
    for name in ("wandb", "mlflow"):
        with pytest.raises(build.UserError, match=rf"pip install 'visiontune\[{name}\]'"):
            build.check_loggers(config(f"logger={name}"))


def test_sent_records_are_remembered(tmp_path: Path) -> None:
    from visiontune.loggers.sent import SentRecords

    sent = SentRecords(tmp_path / "a" / "sent.csv")
    sent.add(["loss", "a, b"], 3)
    sent.add(["loss"], 4)
    with sent.path.open("a") as file:
        file.write("5,los")  # killed while writing
    again = SentRecords(sent.path)
    assert again.last_steps == {"loss": 4, "a, b": 3}
    assert not again.is_new("loss", 4) and again.is_new("loss", 5) and again.is_new("other", 0)
    again.add(["loss"], 5)
    assert SentRecords(sent.path).last_steps["loss"] == 5
