"""Rates and gradient norms in TensorBoard are those of the steps themselves."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_finetuner import GradientRecorder, batch, loader, make

from visiontune.callbacks import AutoRGN, StageMonitor
from visiontune.strategies import GradualUnfreeze

Steps = dict[int, dict[str, float]]


class Noted(torch.optim.SGD):
    """Notes the rates that steps are taken with."""

    taken: list[dict[str, float]]

    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure else None
        self.taken.append(
            {g["name"]: g["lr"] for g in self.param_groups if any(p.grad is not None for p in g["params"])}
        )
        super().step()
        return loss


def fit(folder: Path, epochs: int = 2, batches: int = 5, sam: float | None = None, **options: Any) -> GradientRecorder:
    Noted.taken = []
    strategy = partial(GradualUnfreeze, schedule={"block2": 1}, lr_decay=0.5)
    model, seen = make(strategy=strategy, epochs=epochs, optimizer=Noted, sam=sam), GradientRecorder()
    L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(str(folder), name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[seen, AutoRGN(), StageMonitor()],
        **options,
    ).fit(model, loader(*(batch(6, seed) for seed in range(batches))))
    return seen


def curves(folder: Path, name: str) -> Steps:
    """By step the value of each stage; asserts that no step is there twice."""
    board = EventAccumulator(str(folder))
    board.Reload()
    steps: Steps = {}
    for tag in board.Tags()["scalars"]:
        for point in board.Scalars(tag) if tag.startswith(f"{name}/") else ():
            stage = tag.removeprefix(f"{name}/")
            assert stage not in steps.setdefault(point.step, {}), tag
            steps[point.step][stage] = point.value
    return steps


def norms(gradients: dict[str, torch.Tensor]) -> dict[str, float]:
    stages: dict[str, list[torch.Tensor]] = {}
    for name, gradient in gradients.items():
        stages.setdefault("heads" if name.startswith("heads") else name.split(".")[2], []).append(gradient.flatten())
    return {stage: float(torch.cat(parts).norm()) for stage, parts in stages.items()}


def test_the_curves_are_of_whole_windows_before_clipping(tmp_path: Path) -> None:
    seen = fit(tmp_path, accumulate_grad_batches=2, gradient_clip_val=1e-3, log_every_n_steps=1)
    found, rates = curves(tmp_path, "gradient_norm"), curves(tmp_path, "lr")
    assert list(found) == list(rates) == list(range(6))  # three windows in each of two epochs
    for step, gradients in enumerate(seen.steps):
        assert found[step] == pytest.approx(norms(gradients), rel=1e-5)
        assert set(found[step]) == ({"heads"} if step < 3 else {"heads", "block2"})
        taken = {name: rate for name, rate in Noted.taken[step].items() if not name.endswith(".no_decay")}
        assert rates[step] == pytest.approx(taken, rel=1e-6)
    assert max(found[0].values()) > 1e-2
    # Half the heads' rate, a third to the whole of its warm-up, and what Auto-RGN makes of it.
    assert 0 < rates[3]["block2"] <= 0.1 * 0.5 / 3 + 1e-9


def test_of_sams_two_gradients_the_one_at_the_weights_is_shown_at_the_loggers_interval(tmp_path: Path) -> None:
    seen = fit(tmp_path, sam=0.5, log_every_n_steps=4)
    found = curves(tmp_path, "gradient_norm")
    assert list(found) == [3, 7] and len(seen.steps) == 20
    for step in found:
        assert found[step] == pytest.approx(norms(seen.steps[2 * step]), rel=1e-5)
        assert found[step] != pytest.approx(norms(seen.steps[2 * step + 1]), rel=1e-3)
