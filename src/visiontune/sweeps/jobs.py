"""The jobs of a sweep, from the configs that its overrides compose."""

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from visiontune.config.jobs import ComposedJob, describe
from visiontune.sweeps.sweep import Job

PLACES = ("run_dir", "sweep_dir", "paths", "sweep")  # where a job runs, and how


def build_jobs(composed: list[ComposedJob], keys: list[str], common: list[str]) -> list[Job]:
    """A job for each distinct config.

    Args:
        keys: that the sweep varies; those with numbers become parameters of the study.
        common: the overrides of the command line.
    """
    jobs: dict[str, Job] = {}
    for overrides, cfg, _ in composed:
        values = {key: OmegaConf.select(cfg, key) for key in keys}
        params = {key: float(value) for key, value in values.items() if type(value) in (int, float)}
        name = identity(cfg)
        jobs.setdefault(name, Job(overrides, describe(overrides, common), name, params))
    return list(jobs.values())


def identity(cfg: DictConfig) -> str:
    """The hash of a config without its places, which is equal for jobs that are the same training."""
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    text = json.dumps({key: value for key, value in plain.items() if key not in PLACES}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
