"""Make a run smaller and faster by the steps of a recipe, and measure what each of them costs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from visiontune.compression.measuring import measure
from visiontune.compression.step import Step, config_of
from visiontune.compression.table import text, write
from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.runs.log import logging_to
from visiontune.training.build import make
from visiontune.training.load import open_run


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
    output.mkdir(parents=True, exist_ok=True)
    with RunDirectory(output).lock():
        begin(output, cfg, run, steps)
        runs = [run]
        for step, place in zip(steps.values(), places(output, steps), strict=True):
            runs.append(applied(step, runs[-1], place))
        with logging_to(None):
            rows = measure(runs, cfg.threads, cfg.compile)
        write(rows, output)
    print(f"\n{text(rows)}\n\n{output / 'table.md'}")
    print(runs[-1].path)
    return runs[-1].path


def places(output: Path, steps: Iterable[str]) -> list[Path]:
    """Where the runs of the steps lie."""
    return [output / f"{i}_{key}" for i, key in enumerate(steps)]


def begin(output: Path, cfg: DictConfig, run: RunDirectory, steps: Mapping[str, Step]) -> None:
    """Say in `recipe.yaml` what the folder is of.

    Raises:
        UserError: it is of another recipe, another run, or the run before it was trained on.
    """
    said = OmegaConf.create({"run": str(run.path), "sha256": run.digest(), "steps": cfg.recipe.steps})
    place = output / "recipe.yaml"
    open_steps = {
        key: step.adjustable
        for (key, step), made in zip(steps.items(), places(output, steps), strict=True)
        if not RunDirectory(made).finished
    }
    if place.is_file() and _without(OmegaConf.load(place), open_steps) != _without(said, open_steps):
        raise UserError(
            f"{output} was made by other steps or of other weights, as {place} says: name another with output=DIR"
        )
    with write_atomically(place) as file:
        file.write(OmegaConf.to_yaml(said, resolve=True))


def _without(recipe: DictConfig | ListConfig, arguments: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """What `recipe.yaml` says, but for some arguments of some steps."""
    made = cast("dict[str, Any]", OmegaConf.to_container(recipe, resolve=True))
    for key, names in arguments.items():
        for name in names:
            made["steps"].get(key, {}).pop(name, None)
    return made


def applied(step: Step, source: RunDirectory, output: Path) -> RunDirectory:
    """The run of a step, which may be there from before."""
    run = RunDirectory(output)
    print(f"{output}{' is finished' * run.finished}", flush=True)
    return run if run.finished else step.apply(source, output)
