"""Print what `train` would do, and stop."""

from pathlib import Path

from omegaconf import DictConfig

from visiontune.devices import processes
from visiontune.fitting import prepare
from visiontune.report.plan import plan
from visiontune.train import complete


def main(cfg: DictConfig) -> None:
    cfg = complete(cfg)
    data, model, weights = prepare(cfg, download=False)
    where = Path(cfg.run_dir) if cfg.run_dir else Path(cfg.paths.logs) / cfg.name / "TIME-ID"
    print(plan(cfg, data, model, weights, processes(cfg), where))
