"""Make a run smaller and faster with the steps of a recipe, and measure each step."""

import inspect
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from visiontune.compression.measuring import measure
from visiontune.compression.step import Step, source_config
from visiontune.compression.table import text, write
from visiontune.config.derive import derive
from visiontune.data import READER
from visiontune.errors import UserError
from visiontune.nodes import build, find
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.runs.links import check_links
from visiontune.runs.log import logging_to
from visiontune.runs.output import check_output
from visiontune.runs.reading import read_yaml
from visiontune.training.build import build_data
from visiontune.training.load import open_run
from visiontune.training.resume import resume_command

STEP = "a Step, such as visiontune.compression.Prune"


def main(cfg: DictConfig) -> Path:
    run, run_cfg = open_run(cfg.run, cfg.trust, loggers=True)
    if (status := run.read_status()["status"]) != "finished":
        raise UserError(f"{run.path} is {status}: finish it first with {resume_command(run)}")
    name = HydraConfig.get().runtime.choices["recipe"]
    output = Path(cfg.output).expanduser().resolve() if cfg.output else run.path / "compressed" / name
    if output == run.path or (run.path in output.parents and run.path / "compressed" not in output.parents):
        raise UserError(
            f"output={cfg.output} is inside the run {run.path}: write another folder, such as output=smaller"
        )
    if cfg.output is None and not cfg.trust:
        check_links(run.path, run.path / "compressed")
    check_output(output)
    steps: dict[str, Step] = {
        str(key): build(node, f"recipe.steps.{key}", STEP, Step) for key, node in cfg.recipe.steps.items()
    }
    if not cfg.trust:
        check_untrusted(run_cfg)
        check_steps(output)
    step_cfg = derive(source_config(run), {"trust": cfg.trust})
    for step in steps.values():
        step_cfg = step.check(step_cfg)
    output.mkdir(parents=True, exist_ok=True)
    with RunDirectory(output).lock():
        write_recipe(output, cfg, run, steps)
        runs = [run]
        for step, folder in zip(steps.values(), step_folders(output, steps), strict=True):
            runs.append(apply_step(step, runs[-1], folder))
        with logging_to(None):
            rows = measure(runs, cfg.threads, cfg.compile)
        write(rows, output)
    print(f"\n{text(rows)}\n\n{output / 'table.md'}")
    print(runs[-1].path)
    return runs[-1].path


def check_untrusted(cfg: DictConfig) -> None:
    """Check what the steps read beside a run from elsewhere: its teacher, and data that they could download.

    Raises:
        UserError: the teacher is refused, or the data is not on this machine.
    """
    if cfg.distill.teacher is not None:
        open_run(cfg.distill.teacher)
    reader = find(cfg.data.reader._target_, "data.reader", READER)
    if "allow_download" in inspect.signature(reader).parameters:
        build_data(cfg, download=False)


def check_steps(output: Path) -> None:
    """Check the runs of an earlier command, which the steps resume, with their teachers.

    Raises:
        UserError: one of them is refused, or is a link.
    """
    for parent, folders, files in os.walk(output):
        if links := [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]:
            raise UserError(f"{links[0]} is a link: the runs of the steps are folders; delete it, or write output=DIR")
        if "config.yaml" in files:
            check_untrusted(open_run(parent, loggers=True)[1])


def step_folders(output: Path, steps: Iterable[str]) -> list[Path]:
    """The run directories of the steps."""
    return [output / f"{i}_{key}" for i, key in enumerate(steps)]


def write_recipe(output: Path, cfg: DictConfig, run: RunDirectory, steps: Mapping[str, Step]) -> None:
    """Write `recipe.yaml`: the run, its weights and the steps.

    Raises:
        UserError: the folder belongs to another recipe, another run, or other weights of the run.
    """
    recipe = OmegaConf.create({"run": str(run.path), "sha256": run.digest(), "steps": cfg.recipe.steps})
    path = output / "recipe.yaml"
    adjustable = {
        key: step.adjustable
        for (key, step), folder in zip(steps.items(), step_folders(output, steps), strict=True)
        if not RunDirectory(folder).finished
    }
    if path.is_file() and _without(read_yaml(path), adjustable) != _without(recipe, adjustable):
        raise UserError(
            f"{output} was made with other steps or from other weights, see {path}: write another folder, output=DIR"
        )
    with write_atomically(path) as file:
        file.write(OmegaConf.to_yaml(recipe, resolve=True))


def _without(recipe: DictConfig | ListConfig, arguments: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """The content of `recipe.yaml` without the named arguments of each step."""
    content = cast("dict[str, Any]", OmegaConf.to_container(recipe, resolve=True))
    for key, names in arguments.items():
        for name in names:
            content["steps"].get(key, {}).pop(name, None)
    return content


def apply_step(step: Step, source: RunDirectory, output: Path) -> RunDirectory:
    """Apply a step to `source`, unless `output` already holds its finished run; return that run."""
    run = RunDirectory(output)
    if run.finished:
        print(f"{output} is finished", flush=True)
        return run
    print(output, flush=True)
    return step.apply(source, output)
