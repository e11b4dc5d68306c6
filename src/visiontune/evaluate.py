"""Evaluate a run on a split."""

import math
from pathlib import Path

from omegaconf import DictConfig

from visiontune.config.derive import derive
from visiontune.deployment.evaluation import evaluate_run
from visiontune.runs.files import write_json
from visiontune.runs.log import logging_to
from visiontune.runs.output import check_output
from visiontune.runs.predictions import write_predictions
from visiontune.training.build import build_data
from visiontune.training.load import load_model, open_run


def main(cfg: DictConfig) -> dict[str, float]:
    """Print the metrics of one split; write them and the predictions to `output` if it is set."""
    run, run_cfg = open_run(cfg.run, cfg.trust)
    output = None if cfg.output is None else check_output(Path(cfg.output))
    if cfg.data_root is not None:
        run_cfg = derive(run_cfg, {"data.root": cfg.data_root})
    with logging_to(None):
        model, _ = load_model(run, run_cfg, cfg.checkpoint)
        data = build_data(run_cfg)
        data.assign_as(run.splits)
        if cfg.accelerator != "auto":
            run_cfg = derive(run_cfg, {"trainer.accelerator": cfg.accelerator})
        result = evaluate_run(run, run_cfg, model, data, cfg.split, cfg.backend, cfg.checkpoint)
    print("\n".join(f"{name:<41} {value:.8f}" for name, value in sorted(result.metrics.items())))
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        finite = {name: value for name, value in result.metrics.items() if math.isfinite(value)}
        write_json(output / "metrics.json", finite)
        write_predictions(output / "predictions.csv", result.rows)
        print(output)
    return result.metrics
