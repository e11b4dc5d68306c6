"""Fixtures for all tests: the command in this process, generated images, and trained runs (docs/testing.md)."""

import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

# Before torch starts: idle threads of several processes that share cores would spin, at up to ten times the CPU time.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"

import numpy as np
import pytest
import torch
import yaml
from composing import compose_files_once
from filelock import FileLock
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from omegaconf import DictConfig
from PIL import Image
from running import NARROW, SCENES, SMALL, TINY, Command, Outcome, TrainOnce, run_command
from torch.multiprocessing import start_processes

from visiontune import train
from visiontune.compression import measuring
from visiontune.compression import small as small_step
from visiontune.config.compose import train_config
from visiontune.config.launch import Launch
from visiontune.models.heads import Head
from visiontune.models.heads.detection import DetectionHead
from visiontune.runs import RunDirectory
from visiontune.training.resolve import resolve

# What the processes of a fork server have imported; without it, each would import for six seconds.
multiprocessing.set_forkserver_preload(["visiontune.cli", "visiontune.train", "visiontune.compress"])


def pytest_collection_finish() -> None:
    """Exclude the imported modules from later garbage collections, which take a third of a second each."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # otherwise triton reports its types as leaks


def get_mode(
    hydra: Hydra, config_name: str | None, overrides: list[str], *arguments: Any, **options: Any
) -> RunMode | None:
    """Replaces Hydra's method, which composes everything a second time to read `hydra.mode`; no config sets it."""
    return None


@pytest.fixture(scope="session", autouse=True)
def isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread (faster for such small images), and no file outside the tests' folder."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("VISIONTUNE_LOGS", str(tmp_path_factory.mktemp("logs")))
        patch.setattr(Hydra, "get_mode", get_mode)
        compose_files_once(patch)
        patch.setattr(yaml, "SafeLoader", getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # OmegaConf's; the same in C
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
        yield


@pytest.fixture(scope="session")
def logs(isolated_session: None) -> Path:
    """The default folder of runs."""
    return Path(os.environ["VISIONTUNE_LOGS"])


@pytest.fixture(scope="session")
def command(isolated_session: None) -> Command:
    """`command("train", "seed=1")`: the real command line in this process."""

    return run_command


@pytest.fixture(scope="session")
def small() -> list[str]:
    return SMALL


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    return TINY


@pytest.fixture(scope="session")
def config(isolated_session: None) -> Callable[..., DictConfig]:
    """`config("strategy=full")`: train.yaml, composed and resolved as for `train()`; small by default."""

    def build_config(*overrides: str, base: list[str] = TINY) -> DictConfig:
        return resolve(train_config([*base, *overrides]), Launch(data="test"))

    return build_config


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all pytest-xdist workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def tiles(shared: Path) -> Path:
    """20 noisy images of each of three colours, as `tiles/CLASS/N.png`; a few epochs learn them. Do not change them."""
    root = shared / "tiles"
    with FileLock(shared / "tiles.lock"):
        if not root.is_dir():
            draft = shared / "tiles.draft"
            rng = np.random.default_rng(0)
            for name, colour in (("brick", (170, 90, 80)), ("grass", (90, 150, 80)), ("sky", (110, 130, 180))):
                (draft / name).mkdir(parents=True)
                for i in range(20):
                    pixels = rng.normal(colour, 60, (20, 24, 3)).clip(0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(draft / name / f"{i:02d}.png")
            draft.rename(root)
    return root


@pytest.fixture(scope="session")
def train_once(command: Command, shared: Path) -> TrainOnce:
    """`train_once("strategy=full")`: the outcome of `visiontune train`, which trains once per session for all workers.

    Do not change the run: copy it, or train another one.
    """

    def train(*overrides: str) -> Outcome:
        folder = shared / hashlib.sha256(repr(overrides).encode()).hexdigest()[:12]
        outcome = folder / "outcome.json"
        with FileLock(f"{folder}.lock"):
            if not outcome.is_file():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("VISIONTUNE_LOGS", str(folder))
                    outcome.write_text(json.dumps(asdict(command("train", *overrides))))
        return Outcome(**json.loads(outcome.read_text()))

    return train


@pytest.fixture(scope="session")
def trained(train_once: TrainOnce, tiles: Path) -> Outcome:
    """A complete run on `tiles`: gradual unfreezing over four epochs, TensorBoard and report. Do not change it."""
    return train_once(
        *SMALL,
        "data=image_folder",
        f"data.root={tiles}",
        "data.batch_size=8",
        "trainer.max_epochs=4",
        "trainer.log_every_n_steps=1",
        "strategy=gradual_unfreeze",
        "strategy.head_epochs=1",
        "strategy.unfrozen_by=0.5",
        "strategy.batchnorm=train",
        "optimizer.lr=0.05",
        "seed=7",
    )


@pytest.fixture(scope="session")
def trained_on(train_once: TrainOnce) -> Callable[[str], RunDirectory]:
    """`trained_on("detection")`: a run of one epoch on 40 digit scenes with that head. Do not change it."""

    def run(head: str) -> RunDirectory:
        more = [f"heads.{head}.{key}" for key in NARROW.get(head, [])]
        return train_once(*SMALL, *SCENES, "trainer.max_epochs=1", "logger=none", f"heads={head}", *more).run

    return run


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test write no figures, no report page and no metrics.json, half the time of a small run."""
    monkeypatch.setattr(train, "report", lambda *_: None)


@pytest.fixture
def run(trained: Outcome) -> RunDirectory:
    return trained.run


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are forks of this process, which need not import torch again. Without forks if there is a GPU."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.multiprocessing, "spawn", partial(start_processes, start_method="fork"))


@pytest.fixture
def brief_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compression tables in seconds: few rounds of timing, few bootstrap samples, no processes that measure memory."""
    monkeypatch.setattr(Head, "bootstrap_samples", 10)
    monkeypatch.setattr(DetectionHead, "bootstrap_samples", 5)
    for module in (measuring, small_step):
        monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(measuring, "BATCH_ROUNDS", 1)
    monkeypatch.setattr(measuring, "measure_peak_mb", lambda *_: 1.0)  # a process for each model otherwise


@pytest.fixture(scope="session")
def idx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature MNIST: IDX files with 150 training and 20 test images."""
    root = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 150), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        for what, array in (("images", rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)), ("labels", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
            (root / f"{prefix}-{what}-idx{array.ndim}-ubyte").write_bytes(header + array.tobytes())
    return root
