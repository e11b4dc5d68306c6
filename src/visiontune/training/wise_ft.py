"""After the training: weights between the first and the best ones of a run."""

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
    """Write the best of ``(1 - f) * start + f * best`` on the validation split as the new `best.ckpt`.

    WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903. The factors f are `technique.wise_ft.factors` and
    1, which is the best epoch itself; of equal scores the largest factor wins.
    """
    start, best = read_checkpoint(run.checkpoint("start")), read_checkpoint(run.checkpoint("best"))
    if "wise_ft" in best["visiontune"]:
        return  # a run that was stopped after this, and has had no better epoch since
    name, mode = model.monitor
    scores = {}
    for factor in sorted({*cfg.technique.wise_ft.factors, 1.0}):
        model.load_state_dict(between(start["state_dict"], best["state_dict"], factor))
        evaluation = evaluate(model, data, "val", cfg.trainer.accelerator, cfg.trainer.precision)
        scores[factor] = evaluation.metrics[name]
    sign = 1 if mode == "max" else -1
    chosen = max(scores, key=lambda factor: (sign * scores[factor], factor))
    text = ", ".join(f"{factor:g}: {score:.4f}" for factor, score in scores.items())
    log.info(f"between start (0) and best epoch (1), {name} of {text}; chosen: {chosen:g}")
    best["state_dict"] = between(start["state_dict"], best["state_dict"], chosen)
    best["visiontune"]["wise_ft"] = chosen
    save_atomically(run.checkpoint("best"), best)


def between(start: dict[str, Tensor], best: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """``(1 - factor) * start + factor * best`` of all weights; counters are the best's.

    The change by an adapter is a product of two matrices that starts at zero: only one of them is interpolated.
    """
    return {
        key: torch.lerp(start[key], value, factor) if value.is_floating_point() and not key.endswith(DOWN) else value
        for key, value in best.items()
    }
