"""Print what `train` would do, and stop."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from visiontune.analysis.plan import plan
from visiontune.config.devices import processes
from visiontune.search.trials import AUTO, candidates, composed
from visiontune.train import complete
from visiontune.training.fit import prepare


def main(cfg: DictConfig) -> None:
    cfg, notes = _settled(complete(cfg))
    data, model, weights = prepare(cfg, download=False)
    where = Path(cfg.run_dir) if cfg.run_dir else Path(cfg.paths.logs) / cfg.name / "TIME-ID"
    print("".join(f"{note}\n\n" for note in notes), end="")
    print(plan(cfg, data, model, weights, processes(cfg), where))


def _settled(cfg: DictConfig) -> tuple[DictConfig, list[str]]:
    """Something that can be shown for every `auto`, and what it stands for."""
    notes = []
    if "candidates" in cfg.strategy:
        names = candidates(cfg)
        notes.append(f"strategy=auto: trials decide among {', '.join(names)}; below is the plan of {names[0]}")
        cfg = complete(composed(list(HydraConfig.get().overrides.task), names[0]))
    if cfg.optimizer.lr == AUTO:
        notes.append("optimizer.lr=auto: the range test decides; rates below are shares of what it finds")
        cfg.optimizer.lr = 1.0
    return cfg, notes
