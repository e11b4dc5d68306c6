"""A resumed run equals an uninterrupted one bit for bit, with every strategy.

All runs are in this process; tests/end_to_end/test_kill.py kills processes.
"""

import signal
from pathlib import Path
from typing import Any

import pytest
from alike import check_results, check_training
from running import FEW, SCENES, SMALL, Command, mostly_slow, strategy_overrides

from visiontune import train
from visiontune.callbacks import Checkpoints
from visiontune.models.finetuner import FineTuner
from visiontune.runs import RunDirectory

EPOCHS, STEPS = 4, 4  # each of 16 images
BASE = [
    FEW,
    f"trainer.max_epochs={EPOCHS}",
    "data.batch_size=16",
    "augment=mixup",
    "augment.flip=false",
    "probe=true",
    "optimizer.lr=0.01",
]
CASES: dict[str, list[str]] = {
    "linear_probe": [],
    "full": ["trainer.accumulate_grad_batches=3"],
    "gradual_unfreeze": ["strategy.batchnorm=train"],
    "lp_ft": ["scheduler=one_cycle"],
    "last_k": ["strategy.k=1", "scheduler=linear"],
    "first_k": ["strategy.k=1", "scheduler=exponential"],
    "discriminative": ["optimizer=sgd"],
    "layer_decay": [
        "scheduler=step",
        "+callbacks.quantization_aware._target_=visiontune.callbacks.QuantizationAware",
    ],
    "norm_only": ["scheduler=plateau"],
    "bias_only": ["optimizer=adam"],
    "lora": ["strategy.rank=2", "strategy.dropout=0.1"],
    "l2_sp": ["heads.classification.dropout=0.2"],
    "auto_rgn": ["scheduler=constant"],
    "sam": [],
    "wise_ft": [],
    "swa": ["data.num_workers=2"],
    "lp_ft+ema+l2_sp": ["trainer.accumulate_grad_batches=3"],
    "bit_hyperrule": [],
    "gradual_unfreeze+l2_sp": ["frozen_features.cache=memory", "augment=standard", "strategy.unfrozen_by=0.8"],
    "gradual_unfreeze+ema": ["strategy.patience=1", "monitor=val/classification/calibration_error"],
}
# How the run stops, and further overrides. A killed run resumes from its last checkpoint.
STOPS: list[tuple[str, list[str]]] = [
    ("Ctrl-C", []),
    ("kill", ["checkpoints.every_steps=2"]),
    ("kill", ["checkpoints.every_minutes=1e-6"]),  # before every batch
    ("kill", []),
]


class Killed(BaseException):
    """Ends the run like a kill: nothing is written afterwards."""


def stop_at(step: int, how: str, patch: pytest.MonkeyPatch) -> None:
    """Stop the run once, when the batch with this number (counted over all epochs) begins."""
    owner: Any = Checkpoints if how == "Ctrl-C" else FineTuner
    original, remaining = owner.on_train_batch_start, [step]

    def hook(self: Any, *arguments: Any) -> None:
        module = self if how == "kill" else arguments[1]
        if remaining and module.current_epoch * STEPS + arguments[-1] == remaining[0]:
            remaining.clear()
            if how == "kill":
                raise Killed
            signal.raise_signal(signal.SIGINT)
        original(self, *arguments)

    patch.setattr(owner, "on_train_batch_start", hook)


@pytest.mark.parametrize("number", mostly_slow(range(len(CASES)), 2), ids=list(CASES))
def test_resumed_equals_uninterrupted(
    number: int, command: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = list(CASES)[number]
    step = [6, 11, 9, 4, 13, 7][number % 6]  # in the middle of an epoch, and at the beginning of one
    how, more = STOPS[number % len(STOPS)]
    reported = number < 4  # one for each of STOPS
    if not reported:  # which would take half the time
        monkeypatch.setattr(train, "report", lambda *_: None)
    arguments = [*tiny, *BASE, *strategy_overrides(strategy), *CASES[strategy], *more]
    if reported:
        arguments = [argument for argument in arguments if argument != "logger=none"] + ["trainer.log_every_n_steps=1"]
    whole = command("train", *arguments, f"run_dir={tmp_path / 'whole'}").run
    with monkeypatch.context() as patch:
        stop_at(step, how, patch)
        if how == "kill":
            with pytest.raises(Killed):
                command("train", *arguments, f"run_dir={tmp_path / 'parts'}")
        else:
            stopped = command("train", *arguments, f"run_dir={tmp_path / 'parts'}")
            assert stopped.code == 130 and "interrupted by SIGINT; resume with" in stopped.out, stopped.err
    if number == 2:  # also paused, in its third epoch
        paused = command("train", f"run={tmp_path / 'parts'}", "checkpoints.pause_after=3")
        resume = f"visiontune train run={tmp_path / 'parts'} checkpoints.pause_after=null"
        assert paused.code == 75 and f"paused after epoch 3; resume with: {resume}" in paused.out, paused.err
        assert RunDirectory.open(tmp_path / "parts").read_status()["status"] == "interrupted"
    parts = command("train", f"run={tmp_path / 'parts'}", "checkpoints.pause_after=null").run
    check_training(whole, parts)
    if reported:
        check_results(whole, parts)


D_FINE = "{d_model: 32, encoder_hidden_dim: 32, decoder_layers: 2, num_queries: 9, num_denoising: 9, depth_mult: 0.34}"
FAMILIES = {
    # BatchNorm and dropout in the head.
    "segmenter": [
        *["heads=segmentation", "heads.segmentation.decoder=fcn", "heads.segmentation.norm=batch"],
        "heads.segmentation.auxiliary=0.5",
    ],
    # Random noise on the boxes of denoising queries.
    "set": [
        *["heads=detection", "heads.detection.detector=d_fine", f"heads.detection.transformer={D_FINE}"],
        *["backbone.widths=[4,4,8,8,8]", "technique=none"],  # strides up to 32
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_heads_of_pretrained_models_resume_exactly(
    family: str, command: Command, no_report: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SMALL, *SCENES, "data.scenes=20", *FAMILIES[family], "trainer.max_epochs=2", "logger=none"]
    arguments += ["data.limit_train=4", "data.batch_size=2", "trainer.limit_val_batches=1", "test=false"]
    whole = command("train", *arguments, f"run_dir={tmp_path / 'whole'}").run
    with monkeypatch.context() as patch:
        stop_at(5, "kill", patch)
        with pytest.raises(Killed):
            command("train", *arguments, "checkpoints.every_steps=1", f"run_dir={tmp_path / 'parts'}")
    check_training(whole, command("train", f"run={tmp_path / 'parts'}").run)
