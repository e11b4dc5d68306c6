"""Print what `train` would do, and stop."""

from pathlib import Path

from omegaconf import DictConfig

from visiontune.analysis.plan import plan
from visiontune.config.derive import derive
from visiontune.config.launch import Launch
from visiontune.runs.directory import RunDirectory
from visiontune.training.fit import prepare
from visiontune.training.resolve import AUTO, candidate_configs, resolve
from visiontune.training.space import check_space


def main(cfg: DictConfig) -> None:
    """Print the plan; nothing is written and no weights are downloaded."""
    launch = Launch.from_hydra()
    cfg, notes = _without_search(resolve(cfg, launch), launch)
    place = Path(cfg.run_dir or Path(cfg.paths.logs, cfg.name, "TIME-ID")).expanduser()
    RunDirectory.check_free(place)
    data, model, weights = prepare(cfg, download=False)
    check_space(cfg, model, place.absolute())
    print("".join(f"{note}\n\n" for note in notes), end="")
    print(plan(cfg, data, model, weights, cfg.trainer.devices, place))


def _without_search(cfg: DictConfig, launch: Launch) -> tuple[DictConfig, list[str]]:
    """The config of the first candidate in place of one that a search decides, and notes on what it decides."""
    notes = []
    if cfg.search is not None:
        candidates = candidate_configs(cfg, launch)
        first, cfg = next(iter(candidates.items()))
        notes.append(f"search=strategy: trials decide among {', '.join(candidates)}; below is the plan of {first}")
    if cfg.optimizer.lr == AUTO:
        notes.append("optimizer.lr=auto: the range test decides; learning rates below are fractions of its choice")
        cfg = derive(cfg, {"optimizer.lr": 1.0})
    return cfg, notes
