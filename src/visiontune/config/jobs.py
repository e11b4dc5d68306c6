"""The jobs of a sweep, which are all checked before the first one starts."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from visiontune.config.check import check
from visiontune.config.compose import config_dir, initialized
from visiontune.config.composer import Composer
from visiontune.config.messages import explain, raise_interruption
from visiontune.config.pretrained import check_pretrained
from visiontune.config.renamed import check_keys
from visiontune.config.space import Space, build_space
from visiontune.config.zips import split_zips
from visiontune.errors import UserError, listed, shell_override


class ComposedJob(NamedTuple):
    """The overrides of a job, its config, and Hydra's own config."""

    overrides: list[str]
    cfg: DictConfig
    hydra: DictConfig


def check_jobs(verb: str, overrides: list[str], user_configs: Path | None) -> list[ComposedJob]:
    """Compose and check the config of every job of a sweep.

    Args:
        overrides: prepared for Hydra.
        user_configs: the folder of `--config-dir`.

    Returns:
        The jobs. Those of a search have each choice once, and both ends of numbers.

    Raises:
        UserError: a job's config is wrong; the message has one line for each mistake.
    """
    config_name = "train" if verb == "plan" else verb
    with initialized(user_configs):
        jobs, mistakes = [], []
        expanded = _expand(config_name, overrides)
        composer = Composer(config_name, overrides)
        for job in expanded:
            try:
                cfg, hydra = composer.compose(job)
                check_keys(cfg)
                check(config_name, cfg)
                _check_data(cfg)
                _check_pretrained(cfg, job)
                jobs.append(ComposedJob(job, cfg, hydra))
            except (UserError, HydraException, OmegaConfBaseException) as error:
                raise_interruption(error)
                mistakes.append((job, error))
    if mistakes:
        messages = dict.fromkeys(str(explain(error, verb, job, config_dir())) for job, error in mistakes)
        if len(messages) == 1 and len(mistakes) == len(expanded):
            raise UserError(*messages)
        raise UserError(
            f"{len(mistakes)} of {len(expanded)} jobs are wrong, so none is started:{listed(list(messages))}"
        )
    outputs = [(cfg.output, cfg.get("format")) for _, cfg, _ in jobs if cfg.get("output") is not None]
    if len(set(outputs)) < len(outputs):
        raise UserError(
            f"output={outputs[0][0]}: each job would overwrite the files of the one before; leave output out, or run "
            "one job at a time"
        )
    return jobs


def swept_keys(hydra: DictConfig, overrides: list[str]) -> list[str]:
    """The keys and groups of which a sweep has several values.

    Args:
        hydra: Hydra's own config.
    """
    params = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*params, *overrides])
    return list(dict.fromkeys(override.key_or_group for override in parsed if override.is_sweep_override()))


def select_overrides(job: list[str], keys: Iterable[str]) -> list[str]:
    """The overrides of a job that set one of `keys`, as from `swept_keys`."""
    return [item for item in job if split_override(item)[0] in keys]


def split_override(text: str) -> tuple[str, str]:
    """The key or group of an override, without its package, and its value as text."""
    key, _, value = text.lstrip("+~").partition("=")
    return key.partition("@")[0], value


def _check_data(cfg: DictConfig) -> None:
    """Refuse a fold or a folder that does not exist, which the job would notice only when it starts.

    Raises:
        UserError: there is no such fold or folder.
    """
    data = cfg.get("data") or {}
    fold, folds, root = data.get("fold"), data.get("folds"), data.get("root")
    if fold is not None and folds is not None and fold >= folds:
        raise UserError(f"data.fold={fold} data.folds={folds}: fold goes from 0 to folds - 1; write data.fold=0")
    if root and not data.get("download") and not Path(root).expanduser().is_dir():
        raise UserError(f"data.root: the folder {root} does not exist. Write data.root=DIR with an existing one.")


def _check_pretrained(cfg: DictConfig, job: list[str]) -> None:
    """Refuse another backbone than that of the pretrained model.

    Raises:
        UserError: as `check_pretrained`.
    """
    if cfg.get("pretrained") is not None and cfg.get("weights_from") is None:
        options = [override.partition("=")[2] for override in job if override.lstrip("+").startswith("backbone=")]
        check_pretrained(cfg, options[-1] if options else None)


def describe(job: list[str], overrides: list[str]) -> str:
    """The overrides of a job that the sweep varies, as typed into a shell."""
    swept = OverridesParser.create().parse_overrides([override for override in job if override not in overrides])
    return " ".join(
        shell_override(
            item.get_key_element(), value if isinstance(value := item.value(), str) else item.get_value_string()
        )
        for item in swept
    )


def read_space(config_name: str, overrides: list[str]) -> Space | None:
    """The space of a search; None for a grid. Hydra is initialized.

    Raises:
        UserError: the overrides are no sweep.
    """
    parsed, sweep = _parse(config_name, overrides)
    return None if sweep["sampler"] == "grid" else build_space(config_name, parsed, sweep["zip"])


def _parse(config_name: str, overrides: list[str]) -> tuple[list[Override], dict[str, Any]]:
    """The overrides of a command line and its option of `sweep`, and the sampler and the zip of the sweep.

    Raises:
        UserError: the sweep has several directories, a list of values is empty, or an interval has no sampler.
    """
    hydra = GlobalHydra.instance().hydra
    parser = OverridesParser.create(config_loader=hydra.config_loader if hydra else None)  # `glob` lists its options
    parsed = _parse_lists(parser, overrides)
    for override in parsed:
        key = override.key_or_group.split(".")[0]
        if key in ("sweep_dir", "launcher") and override.is_sweep_override():
            noun, example = ("directory", "DIR") if key == "sweep_dir" else ("launcher", "slurm")
            raise UserError(
                f"{override.key_or_group} has several values: a sweep has one {noun}; write one {key}={example}"
            )
    values = [
        item for item in parsed if item.is_sweep_override() and ("." in item.key_or_group or item.is_interval_sweep())
    ]
    first = BasicSweeper.split_arguments([item for item in parsed if item not in values], None)[0][0]
    cfg = compose(config_name, overrides=first, return_hydra_config=True)
    params = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()]
    parsed = _parse_lists(parser, [*params, *overrides])
    sweep: Any = OmegaConf.to_container(OmegaConf.merge({"sampler": "grid", "zip": []}, cfg.get("sweep") or {}))
    intervals = [item.input_line for item in parsed if item.is_interval_sweep()]
    if sweep["sampler"] == "grid" and intervals:
        hint = "sweep.sampler=random, or values" if config_name == "train" else "values"
        raise UserError(f"{intervals[0]}: an interval is not a list of values; write {hint} such as 1e-4,1e-3")
    return parsed, sweep


def _parse_lists(parser: OverridesParser, overrides: list[str]) -> list[Override]:
    """The overrides, whose lists of values are not empty.

    Raises:
        UserError: a range or a glob has no values.
    """
    parsed = parser.parse_overrides(overrides)
    for item in parsed:
        if item.is_discrete_sweep() and next(iter(item.sweep_string_iterator()), None) is None:
            raise UserError(f"{item.input_line}: expected values, and there are none")
    return parsed


def _expand(config_name: str, overrides: list[str]) -> list[list[str]]:
    """The overrides of each job of a grid, as Hydra's basic sweeper combines them, or of the probes of a search."""
    parsed, sweep = _parse(config_name, overrides)
    if sweep["sampler"] != "grid":
        return build_space(config_name, parsed, sweep["zip"]).probes()
    others, zips = split_zips(parsed, sweep["zip"])
    jobs = BasicSweeper.split_arguments(others, None)[0]
    rows = itertools.product(*(choices.values() for choices in zips.values()))
    return [list(itertools.chain(job, *row)) for job, row in itertools.product(jobs, rows)]
