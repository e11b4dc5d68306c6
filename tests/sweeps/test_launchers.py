"""Launchers: what they need, what they submit, and how they share machines among jobs."""

import stat
from pathlib import Path

import pytest
from omegaconf import DictConfig
from running import TINY, Command
from test_study import SETTINGS, claim, create, objective, write_run

from visiontune.config.compose import config_dir, train_config
from visiontune.errors import RunError, UserError
from visiontune.signals import Interrupted
from visiontune.sweeps.launchers import slurm
from visiontune.sweeps.launchers.cluster import Cluster
from visiontune.sweeps.launchers.launcher import build_launcher
from visiontune.sweeps.launchers.local import Local
from visiontune.sweeps.launchers.ray import Ray
from visiontune.sweeps.launchers.slurm import Slurm
from visiontune.sweeps.launchers.worker_command import WorkerCommand
from visiontune.sweeps.study.settings import Settings
from visiontune.sweeps.study.sweep import Sweep


def no_train(cfg: DictConfig) -> float:
    raise AssertionError("the workers train")


def build(*overrides: str) -> tuple[Slurm | Ray | Local, DictConfig]:
    cfg = train_config(list(overrides))
    launcher = build_launcher(cfg.launcher)
    assert isinstance(launcher, Slurm | Ray | Local)
    return launcher, cfg


def add_programs(folder: Path, monkeypatch: pytest.MonkeyPatch, sbatch: str) -> None:
    """Put programs of Slurm on the PATH."""
    for name, text in {"srun": "exit 1", "sbatch": sbatch}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


class Instant(Cluster):
    """Its only worker runs one job, while the command watches for the first time."""

    name = "instant"
    is_cancelled = False

    def submit(self, sweep: Sweep, commands: list[WorkerCommand]) -> list[str]:
        self.sweep = sweep
        commands[0].output.write_text("000  seed=0: starts\nerror: no more\n")
        return ["w0"]

    def count_workers(self) -> int:
        assert claim(self.sweep) == 0
        write_run(self.sweep, 0, "finished", objective=objective(0.75), started=1.0, updated=3.0)
        self.sweep.conclude(0)
        return 0

    def cancel(self) -> None:
        self.is_cancelled = True


class Stopped(Instant):
    def count_workers(self) -> int:
        raise Interrupted(2)


def test_a_command_shows_what_workers_do_and_why_they_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Instant(workers=4, cpus=1, gpus=0, memory_gb=None)
    sweep = create(tmp_path, 0, 1)
    sweep.settings = Settings(**(vars(SETTINGS) | {"workers": 2}))
    with pytest.raises(RunError, match=r"^1 job waits\n"):
        launcher.launch(sweep, train_config([]).sweep, no_train)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"1 worker (w0), with their output in {tmp_path / 'instant'}",
        "000  seed=0: val/x/score 0.7500, 2 s; 1 of 2 done, best 0.7500 (000), about 1 s left",
        f"{tmp_path / 'instant' / 'worker_0.txt'}: error: no more",
    ]
    assert launcher.is_cancelled


def test_an_interrupted_command_stops_the_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Stopped(workers=1, cpus=1, gpus=0, memory_gb=None)
    with pytest.raises(Interrupted):
        launcher.launch(create(tmp_path, 0, 1), train_config([]).sweep, no_train)
    assert launcher.is_cancelled
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"or here: visiontune work {tmp_path}")


def test_every_launcher_is_built() -> None:
    launchers = {path.stem: build(f"launcher={path.stem}")[0] for path in (config_dir() / "launcher").glob("*.yaml")}
    kinds = {name: (type(launcher), launcher.is_remote) for name, launcher in launchers.items()}
    assert kinds == {"local": (Local, False), "slurm": (Slurm, True), "ray": (Ray, True)}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep.submit=true"], "sweep.submit=true needs a queue: write launcher=slurm"),
        (["launcher=ray", "sweep.submit=true"], "sweep.submit=true needs a queue: write launcher=slurm"),
        (["launcher=slurm"], "launcher=slurm: there is no sbatch on the PATH: start the command on a machine of the "),
        (["launcher=ray", "sweep.workers=0"], "sweep.workers=0 runs the jobs in this process: launcher=ray needs 1"),
        (["launcher=ray", "launcher.address=there"], "launcher.address=there: no Ray cluster answers (invalid literal"),
        (["launcher=ray", "launcher.address=127.0.0.1:9"], "launcher.address=127.0.0.1:9: no Ray cluster answers ([Er"),
        (["launcher=ray", "trainer.devices=-1"], "trainer.devices=-1: launcher=ray needs a number; write trainer.dev"),
    ],
)
def test_what_a_launcher_cannot_do(overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    launcher, cfg = build(*overrides)
    with pytest.raises(UserError) as error:
        launcher.prepare(cfg)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"visiontune.sweeps.launchers.{name}.find_spec", lambda _: None)
    launcher, cfg = build(f"launcher={name}")
    with pytest.raises(UserError) as error:
        launcher.prepare(cfg)
    message = f"launcher={name} needs {package}, an extra of this package: pip install 'visiontune[{name}]'"
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["launcher=slurm"], "launcher=slurm: there is no sbatch on the PATH: "),
        (["launcher=slurm", "launcher.cpus=0"], "launcher.cpus=0: expected a number of cores, 1 or more"),
        (["launcher.workers=2"], "unknown config key 'launcher.workers'"),
        (
            ["hydra/launcher=basic"],
            "hydra/launcher=basic: sweeps use no launcher of Hydra; write launcher=local, slurm",
        ),
    ],
)
def test_wrong_launchers(
    overrides: list[str], message: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm.shutil, "which", lambda program: program if len(overrides) > 1 else None)
    outcome = command("train", "-m", "seed=0,1", *TINY, *overrides, f"sweep_dir={tmp_path / 'sweep'}")
    assert outcome.message.startswith(message) and not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("overrides", "workers", "threads", "gpus"),
    [
        (["trainer=cpu"], 1, 4, 0),
        (["trainer=gpu"], 1, 4, 1),
        (["trainer=ddp"], 1, 4, 2),
        (["trainer=ddp", "sweep.workers=2", "launcher.cpus=6"], 2, 3, 4),
        (["trainer=gpu", "sweep.workers=8", "launcher.gpus=8"], 8, 1, 8),
        (["trainer=default", "sweep.threads=3"], 1, 3, 1),
    ],
)
def test_a_worker_has_the_machine_that_its_jobs_need(
    overrides: list[str], workers: int, threads: int, gpus: int
) -> None:
    launcher, cfg = build("launcher=slurm", *overrides)
    assert isinstance(launcher, Slurm) and launcher.share(cfg.sweep, cfg.trainer, 10) == (workers, threads)
    places = {"workers": workers, "devices": cfg.trainer.devices, "accelerator": cfg.trainer.accelerator}
    assert launcher.count_gpus(Settings(**(vars(SETTINGS) | places))) == gpus


def test_a_worker_with_fewer_gpus_than_its_jobs_need() -> None:
    launcher, cfg = build("launcher=slurm", "trainer=ddp", "launcher.gpus=1")
    with pytest.raises(UserError, match=r"^launcher.gpus=1: the jobs of a worker need 2; write launcher.gpus=auto$"):
        launcher.share(cfg.sweep, cfg.trainer, 10)


def test_slurm_gets_an_array_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_programs(tmp_path, monkeypatch, f"cp $1 {tmp_path / 'script'}; echo Submitted batch job 71")
    (tmp_path / "sweep").mkdir()
    sweep = create(tmp_path / "sweep", 0, 1, 2, 3, 4)
    sweep.settings = Settings(**(vars(SETTINGS) | {"accelerator": "gpu", "workers": 2}))
    keys = ["partition=gpu", "hours=1.5", "memory_gb=32", "options={account: vision}", "setup=[module load cuda]"]
    launcher, cfg = build("launcher=slurm", *(f"launcher.{key}" for key in keys), "sweep.submit=true")
    launcher.launch(sweep, cfg.sweep, no_train)
    lines = (tmp_path / "script").read_text().splitlines()
    assert {
        "#SBATCH --account=vision",
        "#SBATCH --array=0-2%3",  # five jobs, two in each worker
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --mem=32GB",
        "#SBATCH --partition=gpu",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --time=90",
        "module load cuda",
    } <= set(lines)
    assert "3 workers (71_0, 71_1, 71_2), with their output in " in capsys.readouterr().out


def test_slurm_refuses_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_programs(tmp_path, monkeypatch, "echo invalid partition specified: nope >&2; exit 1")
    (tmp_path / "sweep").mkdir()
    launcher, cfg = build("launcher=slurm")
    with pytest.raises(UserError, match=r"^sbatch does not accept the workers: .*invalid partition specified: nope$"):
        launcher.launch(create(tmp_path / "sweep", 0), cfg.sweep, no_train)
