"""Losses, gradients and validations that are not finite."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from running import TINY, Command, TrainOnce, mostly_slow

from visiontune.callbacks import Checkpoints, NonFinite, QuantizationAware, WeightAverage
from visiontune.data import VisionData
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.classification import ClassificationHead
from visiontune.runs import RunDirectory

RUN = [
    *TINY,
    "data.batch_size=16",
    "strategy=full",
    "strategy.batchnorm=train",
    "probe=false",
    "augment=none",
]  # 4 steps
BROKEN = 5  # the row of the image that is NaN


@pytest.fixture
def break_image(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`break_image(2, 3)`: an image of the second and third training batch is NaN. The result has their paths later."""

    def patch(*numbers: int, training: bool = True, row: int = BROKEN) -> list[str]:
        original, count, paths = VisionData.to_network, [0], []

        def to_network(self: VisionData, batch: Any, **options: Any) -> Any:
            batch = original(self, batch, **options)
            if options.get("training", False) == training:
                count[0] += 1
                if count[0] in numbers:
                    for values in batch["frozen"].values.values() if "frozen" in batch else [batch["image"]]:
                        values[row] = torch.nan
                    paths.extend(batch["path"])
            return batch

        monkeypatch.setattr(VisionData, "to_network", to_network)
        return paths

    return patch


def message(command: Command, folder: Path, *overrides: str) -> str:
    """The message of a run that fails; its status is failed as well."""
    outcome = command("train", *RUN, *overrides, f"run_dir={folder / 'run'}")
    assert outcome.code == 1 and outcome.err.startswith("error: ") and "Traceback" not in outcome.err, outcome.err
    assert outcome.err.count("\n") == 1
    assert RunDirectory(folder / "run").read_status()["status"] == "failed"
    return outcome.err.removeprefix("error: ").strip()


def test_a_learning_rate_of_a_million_stops_the_run_in_its_first_epoch(command: Command, tmp_path: Path) -> None:
    lr = ["optimizer=sgd", "optimizer.lr=1e6", "scheduler=constant", "trainer.gradient_clip_val=null"]
    text = message(command, tmp_path, *lr, "scheduler.warmup=0", "trainer.max_epochs=9", "data.limit_train=300")
    assert "(epoch 1): the loss of classification is not finite. The batch: digits/" in text
    assert "Try a lower optimizer.lr (it is 1e+06 now), trainer.gradient_clip_val=1, or check these images" in text
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0"]
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_the_message_names_the_sample_that_is_broken(
    command: Command, tmp_path: Path, break_image: Callable[..., list[str]]
) -> None:
    paths = break_image(2)
    text = message(command, tmp_path, "trainer.precision=bf16-mixed")
    assert text.startswith(
        f"step 2 (epoch 1): the loss of classification is not finite. The batch: {paths[BROKEN]}, {paths[0]}, "
    )
    assert f"(16 samples); by itself not finite: {paths[BROKEN]}. " in text
    assert "trainer.precision=32-true" in text and "gradient_clip_val" not in text  # it clips already


def test_a_gradient_that_is_not_finite_stops_the_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ClassificationHead.loss

    def loss(self: ClassificationHead, raw: Any, targets: Any) -> dict[str, torch.Tensor]:
        return {"loss": original(self, raw, targets)["loss"] + (0 * raw["logits"]).sqrt().sum()}  # 0; its slope is NaN

    monkeypatch.setattr(ClassificationHead, "loss", loss)
    text = message(command, tmp_path, "trainer.accumulate_grad_batches=2")
    assert text.startswith("step 1 (epoch 1): the gradient is not finite, and the loss is. The batch: digits/")
    assert "(32 samples)" in text


@pytest.mark.parametrize("technique", mostly_slow(["ema", "[ema,sam]", "swa"], "[ema,sam]"))
def test_a_skipped_step_changes_nothing_but_the_schedule(
    technique: str,
    command: Command,
    tmp_path: Path,
    break_image: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states: list[dict[str, Any]] = []

    def record(self: FineTuner, *_: Any) -> None:
        callbacks = [c for c in self.trainer.callbacks if isinstance(c, WeightAverage)]  # type: ignore[attr-defined]
        tensors = {**self.state_dict(), **callbacks[0]._average_model.state_dict()}  # type: ignore[union-attr]
        moments = self.trainer.optimizers[0].state_dict()["state"]
        tensors |= {f"{i}/{name}": value for i, values in moments.items() for name, value in values.items()}
        states.append(
            {name: value.clone() for name, value in tensors.items()} | {"lr": self.optimizers().param_groups[0]["lr"]}
        )  # type: ignore[union-attr]

    monkeypatch.setattr(FineTuner, "on_train_batch_start", record)
    break_image(3)
    arguments = ["on_nonfinite=skip", f"technique={technique}", "scheduler=linear", "logger=csv"]
    outcome = command("train", *RUN, *arguments, "trainer.max_epochs=2")
    before, after = states[2], states[3]
    lr = before.pop("lr"), after.pop("lr")
    assert lr[1] < lr[0]
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(states[1][name], before[name]) for name in before)
    assert all(bool(value.isfinite().all()) for value in states[-1].values() if isinstance(value, torch.Tensor))
    run = outcome.run
    rows = list(csv.DictReader(run.history.open()))
    assert [row["train/skipped_steps"] for row in rows] == ["", "1", "1"]
    assert all(float(row["train/loss"]) < 10 for row in rows[1:])  # NaN is left out of the mean
    assert json.loads(run.metrics.read_text())["train/skipped_steps"] == 1
    log = run.log.read_text()
    assert log.count("step 3 (epoch 1) is skipped (1 so far): the loss of classification is not finite") == 1
    assert "on_nonfinite=skip: 1 of 8 steps were skipped" in log
    assert "train/skipped_steps" in (run.report / "index.html").read_text()


def test_one_broken_batch_leaves_out_its_accumulation_window(
    command: Command, break_image: Callable[..., list[str]]
) -> None:
    break_image(1, 2)
    run = command("train", *RUN, "on_nonfinite=skip", "trainer.accumulate_grad_batches=3", "trainer.max_epochs=2").run
    assert json.loads(run.metrics.read_text())["train/skipped_steps"] == 1
    state = torch.load(run.checkpoint("last"), weights_only=True)
    assert state["global_step"] == 4 and all(v.isfinite().all() for v in state["state_dict"].values())


@pytest.mark.slow
def test_outputs_of_frozen_stages_and_a_teacher_can_be_broken(
    command: Command, tmp_path: Path, break_image: Callable[..., list[str]], train_once: TrainOnce
) -> None:
    teacher = train_once(*TINY).run.path
    for name, keys in {
        "cache": ["strategy=last_k", "strategy.k=1", "frozen_features.cache=memory"],
        "teacher": [f"distill.teacher={teacher}", "distill.features=1"],
    }.items():
        paths = break_image(2)
        text = message(command, tmp_path / name, *keys)
        assert text.startswith("step 2 (epoch 1): the loss of classification is not finite. The batch: digits/")
        assert f"; by itself not finite: {paths[BROKEN]}. " in text
        break_image(2)
        run = command("train", *RUN, *keys, "on_nonfinite=skip").run
        assert json.loads(run.metrics.read_text())["train/skipped_steps"] == 1
        state = torch.load(run.checkpoint("last"), weights_only=True)
        assert all(value.isfinite().all() for value in state["state_dict"].values())


@pytest.mark.slow
def test_a_skipped_step_changes_no_range_of_quantization(
    command: Command, break_image: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    pytest.importorskip("torchao")
    ranges: list[list[torch.Tensor]] = []

    def record(self: FineTuner, *_: Any) -> None:
        callbacks = [c for c in self.trainer.callbacks if isinstance(c, QuantizationAware)]  # type: ignore[attr-defined]
        ranges.append([buffer.clone() for buffer in callbacks[0].buffers()])

    monkeypatch.setattr(FineTuner, "on_train_batch_start", record)
    break_image(3)
    qat = ["+callbacks.quantization_aware._target_=visiontune.callbacks.QuantizationAware", "strategy.batchnorm=frozen"]
    command("train", *RUN, *qat, "on_nonfinite=skip").run  # noqa: B018
    equal = [all(map(torch.equal, ranges[i], ranges[i + 1])) for i in range(3)]
    assert equal == [False, False, True] and all(bool(values.isfinite().all()) for values in ranges[3])


@pytest.mark.slow
def test_a_run_with_skipped_steps_resumes_exactly(
    command: Command, tmp_path: Path, break_image: Callable[..., list[str]], no_report: None
) -> None:
    arguments = ["on_nonfinite=skip", "trainer.max_epochs=3", "checkpoints.every_steps=1", "augment=mixup"]
    arguments += ["trainer.accumulate_grad_batches=2", "augment.flip=false"]
    break_image(2, 5)
    whole = command("train", *RUN, *arguments).run

    class Killed(BaseException):
        pass

    original = Checkpoints.on_train_batch_start

    def stop(self: Any, trainer: L.Trainer, *rest: Any) -> None:
        original(self, trainer, *rest)
        if trainer.current_epoch == 1 and rest[-1] == 2:  # after six batches
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_start", stop)
        break_image(2, 5)
        with pytest.raises(Killed):
            command("train", *RUN, *arguments, f"run_dir={tmp_path / 'parts'}")
    break_image()
    parts = command("train", f"run={tmp_path / 'parts'}").run
    first, second = (torch.load(run.checkpoint("last"), weights_only=True) for run in (whole, parts))
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(first[key][name], second[key][name]) for name in first[key])
    assert first["callbacks"]["NonFinite"] == second["callbacks"]["NonFinite"] == {"skipped": 2, "skipped_in_epoch": 0}
    assert first["global_step"] == second["global_step"] == 6


def test_an_epoch_without_a_step_stops_the_run(
    command: Command, tmp_path: Path, break_image: Callable[..., list[str]]
) -> None:
    break_image(*range(5, 9))
    text = message(command, tmp_path, "on_nonfinite=skip", "trainer.max_epochs=3")
    assert text.startswith("epoch 2: all 4 steps were skipped, since no loss or gradient was finite. Try a lower opt")


def test_a_validation_loss_that_is_not_finite_stops_the_run(
    command: Command, tmp_path: Path, break_image: Callable[..., list[str]]
) -> None:
    paths = break_image(1, training=False)
    text = message(command, tmp_path)
    assert text.startswith(
        "the validation before the first step: the loss of classification is not finite for " + paths[BROKEN] + ". Try"
    )
    break_image(1, training=False)
    run = command("train", *RUN, "on_nonfinite=skip").run  # a warning
    assert (
        f"warning: the validation before the first step: the loss of classification is not finite for {paths[BROKEN]}"
        in (run.log.read_text())
    )


def test_weights_that_are_not_finite_stop_the_run_at_the_next_validation(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FineTuner.on_train_batch_end

    def overflow(self: FineTuner, outputs: Any, batch: Any, batch_idx: int) -> None:
        original(self, outputs, batch, batch_idx)
        if batch_idx == 3:  # after the last step of the epoch
            next(self.backbone.parameters()).data[0] = -torch.inf  # behind a ReLU the loss stays finite

    monkeypatch.setattr(FineTuner, "on_train_batch_end", overflow)
    text = message(command, tmp_path, "trainer.max_epochs=3", "on_nonfinite=skip")
    assert text.startswith("after epoch 1 the weights of block1 are not finite. Try a lower optimizer.lr")


@pytest.mark.slow
@pytest.mark.parametrize("skip", [True, False])
def test_two_ranks_decide_together(
    skip: bool, command: Command, tmp_path: Path, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only rank 1 has a broken image, in its second batch."""
    original, count = VisionData.to_network, [0]

    def to_network(self: VisionData, batch: Any, **options: Any) -> Any:
        batch = original(self, batch, **options)
        if options.get("training") and self.trainer is not None and self.trainer.global_rank == 1:
            count[0] += 1
            if count[0] == 2:
                batch["image"][BROKEN] = torch.nan
        return batch

    monkeypatch.setattr(VisionData, "to_network", to_network)
    ranks = [override for override in RUN if override != "trainer=cpu"]
    ranks += ["trainer=ddp_cpu", "trainer.devices=2", "data.batch_size=8", f"run_dir={tmp_path / 'run'}"]
    outcome = command("train", *ranks, f"on_nonfinite={'skip' if skip else 'error'}", "trainer.max_epochs=2")
    run = RunDirectory(tmp_path / "run")
    if not skip:
        assert outcome.code == 1 and run.read_status()["status"] == "failed"
        assert "step 2 (epoch 1): the loss of classification is not finite. The batch: digits/" in outcome.err
        assert "; by itself not finite: digits/" in outcome.err and outcome.err.count("\n") == 1
        return
    assert outcome.code == 0, outcome.err
    assert json.loads(run.metrics.read_text())["train/skipped_steps"] == 1
    state = torch.load(run.checkpoint("last"), weights_only=True)
    assert state["global_step"] == 8 and all(v.isfinite().all() for v in state["state_dict"].values())
    assert all(
        buffer.isfinite().all()
        for rank in state["exact_resume"]["ranks"]
        for b in rank["buffers"]
        for buffer in b.values()
    )


def test_a_gradient_scaler_skips_its_own_steps() -> None:
    """With 16-mixed the gradient of a finite loss is infinite until the scale fits."""
    callback = NonFinite()
    for scale, loss, expected in ((65536.0, 1.0, True), (65536.0, torch.nan, False), (1.0, 1.0, False)):
        scaler = SimpleNamespace(get_scale=lambda scale=scale: scale)
        trainer = SimpleNamespace(
            precision_plugin=SimpleNamespace(scaler=scaler), strategy=SimpleNamespace(reduce_boolean_decision=bool)
        )
        callback.window = [([], {}, torch.tensor(loss))]
        assert callback._is_skipped_by_scaler(trainer) is expected
