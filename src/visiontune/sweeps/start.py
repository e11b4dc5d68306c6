"""Start or resume a sweep: check its jobs, queue those that are not done, and launch workers."""

import os
import shlex
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import DictConfig
from optuna.trial import TrialState

from visiontune.config.compose import initialized
from visiontune.config.distributions import describe_distribution
from visiontune.config.jobs import ComposedJob, check_jobs, read_space, select_overrides, split_override, swept_keys
from visiontune.config.space import Space
from visiontune.errors import pluralize, some
from visiontune.runs.log import announce
from visiontune.sweeps.estimate import announce_time
from visiontune.sweeps.launchers.launcher import build_launcher
from visiontune.sweeps.prepare import prepare_jobs
from visiontune.sweeps.resume import check_code
from visiontune.sweeps.study.directory import check_sweep_dir
from visiontune.sweeps.study.jobs import build_jobs, build_search, build_suggestions
from visiontune.sweeps.study.locks import SweepLocks
from visiontune.sweeps.study.objectives import check_same_objectives
from visiontune.sweeps.study.pruner import build_pruner, check_same_pruner
from visiontune.sweeps.study.settings import FILE, Settings
from visiontune.sweeps.study.storage import check_storage, name_study, typed_storage
from visiontune.sweeps.study.suggest import check_resumable, check_sampler
from visiontune.sweeps.study.sweep import Sweep
from visiontune.sweeps.workers.job_process import Train
from visiontune.sweeps.workers.slots import build_slots, visible_gpus


def start(cfg: DictConfig, arguments: list[str], train: Train) -> None:
    """Run the sweep of a command line.

    Args:
        cfg: the composed config with `hydra`, without the values that the sweep varies.
        arguments: the overrides of the command line, without those of Hydra.
        train: trains or resumes the run of a config.

    Raises:
        UserError: a job is wrong, or the directory has another use; nothing is started.
        RunError: a job has failed.
        Interrupted: a signal has stopped the sweep.
    """
    launcher = build_launcher(cfg.launcher)
    launcher.prepare(cfg)
    folder = Path(cfg.sweep_dir).expanduser().absolute()
    overrides = [*(item for item in cfg.hydra.overrides.hydra if item != "hydra.mode=MULTIRUN"), *arguments]
    overrides = [item for item in overrides if not item.startswith("sweep.storage=")]  # its password is not of the jobs
    sources = {source.provider: source.path for source in cfg.hydra.runtime.config_sources}
    user_configs = Path(sources["command-line"]) if "command-line" in sources else None
    composed = check_jobs("train", overrides, user_configs)
    with initialized(user_configs):
        space = read_space("train", overrides)
    keys = swept_keys(cfg.hydra, arguments)
    search = build_search(space, cfg.sweep) if space else None
    if space and search:
        check_sampler(search, len(cfg.sweep.objectives))
        jobs = build_suggestions(space, search, cfg.sweep.trials)
        configs = [composed[0].cfg] * len(jobs)
    else:
        jobs = build_jobs(composed, keys)
        configs = [job.cfg for job in composed]
    before = Settings.read(folder) if (folder / FILE).is_file() else None
    storage = check_storage(folder, typed_storage(cfg.sweep), before)
    if before is None:
        check_sweep_dir(folder, configs)
    else:
        with SweepLocks(folder / "study.locks").command():  # refused here, before anything is built
            pass
        check_resumable(Sweep(folder).study, search)
    names = list(cfg.sweep.objectives)
    objectives, kinds = prepare_jobs(composed, cfg.sweep.check, user_configs, names, launcher.is_remote)
    resolved = kinds[0][0]
    pruner = build_pruner(
        cfg.sweep, [job.cfg for job in composed], set(objectives.items()), resolved.trainer.max_epochs
    )
    workers, threads = launcher.share(cfg.sweep, resolved.trainer, len(jobs))
    settings = Settings(
        overrides=overrides,
        config_dir=str(user_configs) if user_configs else None,
        working_directory=os.getcwd(),
        workers=workers,
        threads=threads,
        devices=resolved.trainer.devices,
        accelerator=resolved.trainer.accelerator,
        fail_fast=cfg.sweep.fail_fast,
        max_retries=cfg.sweep.max_retries,
        max_hours=cfg.sweep.max_hours,
        max_epochs=cfg.sweep.max_epochs,
        storage=storage,
        study=before.study if before else name_study(folder, storage),
        pruner=asdict(pruner) if pruner else None,
        keys=list(dict.fromkeys([*(before.keys if before else []), *keys])),
        objectives=objectives if names else {},
    )
    if before is not None:
        check_same_pruner(before.pruner, settings.pruner)
        check_same_objectives(before.objectives, settings.objectives)
    if before is not None and cfg.sweep.threads == "auto":
        settings = replace(settings, threads=before.threads)
    folder.mkdir(parents=True, exist_ok=True)
    modes = list(objectives.values()) if names else list(objectives.values())[:1]
    with SweepLocks(folder / "study.locks").command():
        sweep = Sweep.create(folder, settings, *("maximize" if mode == "max" else "minimize" for mode in modes))
        with sweep.locks.schedule():
            if not cfg.sweep.allow_changed:
                check_code(sweep)
            if search:
                search.store(sweep.study)
            added = sweep.add(jobs)
        announce(_summary(len(configs), len(jobs), added, folder))
        for line in _describe_space(space, composed, keys):
            announce(f"  {line}")
        if "tensorboard" in resolved.logger:
            announce(f"  tensorboard --logdir {shlex.quote(str(folder))}")
        if workers and cfg.sweep.check and not launcher.is_remote:
            gpus = visible_gpus() if settings.accelerator != "cpu" else []
            slot = build_slots(workers, settings.threads, settings.devices, gpus)[0]
            announce_time(kinds, len(sweep.trials(TrialState.WAITING)), workers, slot, is_pruned=pruner is not None)
        launcher.launch(sweep, cfg.sweep, train)


def _describe_space(space: Space | None, composed: list[ComposedJob], keys: list[str]) -> list[str]:
    """What the jobs vary: a line for each key, with its values or their distribution."""
    if space:
        return [f"{key}: {describe_distribution(item)}" for key, item in space.distributions.items()]
    values: dict[str, list[str]] = {}
    for override in dict.fromkeys(item for job in composed for item in select_overrides(job.overrides, keys)):
        key, value = split_override(override)
        values.setdefault(key, []).append(value)
    return [f"{key}: {some(texts, 8)}" for key, texts in values.items()]


def _summary(combinations: int, jobs: int, added: int, folder: Path) -> str:
    """How many jobs there are, in one line."""
    parts = [pluralize(jobs, "job", "jobs")]
    if combinations > jobs:
        parts.append(f"{combinations - jobs} of {combinations} combinations are the same as others")
    if jobs > added:
        parts.append(f"{jobs - added} done or queued before")
    return f"{', '.join(parts)}: {folder}"
