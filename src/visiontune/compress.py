"""Make a run smaller and faster by the steps of a recipe, and measure what each of them costs."""

import hashlib
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from visiontune.build import make
from visiontune.compressing.measuring import measure
from visiontune.compressing.step import Step, config_of
from visiontune.compressing.table import text, write
from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.runs.load import open_run
from visiontune.runs.log import logging_to


def main(cfg: DictConfig) -> Path:
    run, _ = open_run(cfg.run, cfg.trust)
    if (status := run.read_status()["status"]) != "finished":
        raise UserError(f"{run.path} is {status}: finish it first with visiontune train run={run.path}")
    name = HydraConfig.get().runtime.choices["recipe"]
    output = Path(cfg.output).expanduser().resolve() if cfg.output else run.path / "compressed" / name
    if output == run.path or (run.path in output.parents and run.path / "compressed" not in output.parents):
        raise UserError(f"output={cfg.output} lies within the run: name a folder outside of {run.path}")
    steps: dict[str, Step] = {str(key): make(node) for key, node in cfg.recipe.steps.items()}
    made = config_of(run)
    for step in steps.values():
        made = step.check(made)
    begin(output, cfg, run)
    runs = [run]
    for i, (key, step) in enumerate(steps.items()):
        runs.append(applied(step, runs[-1], output / f"{i}_{key}"))
    with logging_to(None):
        rows = measure(runs, cfg.threads, cfg.compile)
    write(rows, output)
    print(f"\n{text(rows)}\n\n{output / 'table.md'}")
    print(runs[-1].path)
    return runs[-1].path


def begin(output: Path, cfg: DictConfig, run: RunDirectory) -> None:
    """Say in `recipe.yaml` what the folder is of.

    Raises:
        UserError: it is of another recipe, another run, or the run before it was trained on.
    """
    digest = hashlib.sha256(run.checkpoint("best").read_bytes()).hexdigest()
    said = OmegaConf.create({"run": str(run.path), "sha256": digest, "steps": cfg.recipe.steps})
    place = output / "recipe.yaml"
    if place.is_file() and OmegaConf.load(place) != said:
        raise UserError(
            f"{output} was made by other steps or of other weights, as {place} says: name another with output=DIR"
        )
    output.mkdir(parents=True, exist_ok=True)
    with write_atomically(place) as file:
        file.write(OmegaConf.to_yaml(said, resolve=True))


def applied(step: Step, source: RunDirectory, output: Path) -> RunDirectory:
    """The run of a step, which may be there from before."""
    run = RunDirectory(output)
    print(f"{output}{' is finished' * run.finished}", flush=True)
    return run if run.finished else step.apply(source, output)
