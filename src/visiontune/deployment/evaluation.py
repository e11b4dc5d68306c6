"""Evaluate a run with its checkpoint or an exported file."""

from omegaconf import DictConfig

from visiontune.data import VisionData
from visiontune.deployment.files import open_exported, run_through
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.training.evaluation import Evaluation, evaluate


def evaluate_run(
    run: RunDirectory,
    cfg: DictConfig,
    model: FineTuner,
    data: VisionData,
    split: str,
    backend: str | None = None,
    which: str = "best",
    trust: bool = False,
) -> Evaluation:
    """Evaluate the model, or the exported file of the checkpoint `which` if `backend` or the run's config names one.

    Args:
        trust: whether that file may be unpickled, see `open_exported`.
    """
    backend = backend or cfg.get("backend")
    if backend is None:
        return evaluate(model, data, split, cfg.trainer.accelerator, cfg.trainer.precision)
    run_through(model, open_exported(run, backend, which, trust))
    return evaluate(model, data, split, "cpu", original_images=True)
