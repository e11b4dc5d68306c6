"""Check before a sweep starts that its jobs can train."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from visiontune.config.compose import initialized
from visiontune.config.derive import derive
from visiontune.config.jobs import ComposedJob
from visiontune.config.launch import Launch
from visiontune.config.messages import describe_error, raise_interruption
from visiontune.errors import UserError, listed
from visiontune.models.split_metrics import find_directions
from visiontune.sweeps.study.objectives import find_objectives
from visiontune.training.fit import prepare
from visiontune.training.resolve import AUTO, resolve

MAX_SECONDS = 30.0


def prepare_jobs(
    jobs: Iterable[ComposedJob],
    check: bool,
    user_configs: Path | None,
    names: Sequence[str] = (),
    is_remote: bool = False,
) -> tuple[dict[str, str], list[tuple[DictConfig, int]]]:
    """Build the data and the network of each job; return their objectives, and their kinds.

    Jobs that differ only in the seed, the fold or numbers of the optimizer are built once. After 30 seconds the other
    jobs are left to themselves.

    Args:
        check: whether to build more than the first job.
        names: of the objectives; by default the monitor of each job.
        is_remote: whether the jobs run on other machines, so that this one need not have their GPUs.

    Returns:
        Name -> `max` or `min`, the same for all monitors, and of each kind of job that was built a resolved config and
        the number of jobs.

    Raises:
        UserError: jobs cannot train; the message names each mistake once.
    """
    kinds: dict[str, list[ComposedJob]] = {}
    for job in jobs:
        kinds.setdefault(_key(job.cfg), []).append(job)
    mistakes: dict[str, int] = {}  # number of jobs by message
    objectives: dict[str, str] = {}
    built = []
    started = time.monotonic()
    with initialized(user_configs):  # the candidates of a search are composed
        for job, *others in kinds.values():
            try:
                composed = derive(job.cfg, {"trainer.accelerator": "cpu"}) if is_remote else job.cfg
                cfg = resolve(composed, replace(Launch.from_hydra(job.hydra), job=0))
                lr = {"optimizer.lr": 1.0} if cfg.optimizer.lr == AUTO else {}
                _, model, _ = prepare(derive(cfg, lr), download=False, load=False)
                objectives |= find_objectives(names, find_directions(model.heads)) or dict([model.monitor])
                if is_remote:
                    cfg = derive(cfg, {"trainer.accelerator": job.cfg.trainer.accelerator})
                built.append((cfg, 1 + len(others)))
            except Exception as error:
                raise_interruption(error)
                message = describe_error(error, "train", job.overrides)[0]
                mistakes[message] = mistakes.get(message, 0) + 1 + len(others)
            if (objectives and not check) or time.monotonic() - started > MAX_SECONDS:
                break
    count, total = sum(mistakes.values()), sum(map(len, kinds.values()))
    if count == total and len(mistakes) == 1:
        raise UserError(*mistakes)
    if mistakes:
        raise UserError(f"{count} of {total} jobs cannot train, so none is started:{listed(list(mistakes))}")
    if not names and len(set(objectives.values())) > 1:
        raise UserError("some jobs maximize their objective and others minimize it: write monitor=METRIC")
    return objectives, built


def _key(cfg: DictConfig) -> str:
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    optimizer = {key: value for key, value in plain["optimizer"].items() if not isinstance(value, int | float)}
    data = {key: value for key, value in plain["data"].items() if key != "fold"}
    return str(plain | {"optimizer": optimizer, "data": data, "seed": None})
