"""Interpolate between the first and the best weights of a run after training."""

import torch
from omegaconf import DictConfig
from torch import Tensor

from visiontune.data import VisionData
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import save_atomically
from visiontune.runs.log import log
from visiontune.strategies.lora import DOWN
from visiontune.training.evaluation import evaluate
from visiontune.training.load import read_checkpoint


def interpolate(cfg: DictConfig, run: RunDirectory, model: FineTuner, data: VisionData) -> None:
    """Save the weights ``(1 - f) * start + f * best`` with the best validation score as the new `best.ckpt`.

    WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903. The factors f are `technique.wise_ft.factors` and
    1, which is the best epoch itself. Among equal scores the largest factor wins.
    """
    start, best = read_checkpoint(run.checkpoint("start")), read_checkpoint(run.checkpoint("best"))
    if "wise_ft" in best["visiontune"]:
        return  # a resumed run that has had no better epoch since the last interpolation
    name, mode = model.monitor
    scores = {}
    for factor in sorted({*cfg.technique.wise_ft.factors, 1.0}):
        model.load_state_dict(between(start["state_dict"], best["state_dict"], factor))
        evaluation = evaluate(model, data, "val", cfg.trainer.accelerator, cfg.trainer.precision)
        scores[factor] = evaluation.metrics[name]
    sign = 1 if mode == "max" else -1
    best_factor = max(scores, key=lambda factor: (sign * scores[factor], factor))
    text = ", ".join(f"{factor:g}: {score:.4f}" for factor, score in scores.items())
    log.info(f"between start (0) and best epoch (1), {name} of {text}; chosen: {best_factor:g}")
    best["state_dict"] = between(start["state_dict"], best["state_dict"], best_factor)
    best["visiontune"]["wise_ft"] = best_factor
    save_atomically(run.checkpoint("best"), best)


def between(start: dict[str, Tensor], best: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """``(1 - factor) * start + factor * best`` for all weights; integer buffers are those of `best`.

    A LoRA adapter is a product of two matrices that starts at zero, so interpolating one of them is enough.
    """
    return {
        key: torch.lerp(start[key], value, factor) if value.is_floating_point() and not key.endswith(DOWN) else value
        for key, value in best.items()
    }
