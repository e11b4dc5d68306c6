"""What all tests share: the command in this process, generated images, and one run that many tests look at."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict
from PIL import Image
from running import SMALL, TINY, Command, Outcome

from visiontune import cli
from visiontune.config.compose import config_dir
from visiontune.runs import RunDirectory


@pytest.fixture(scope="session", autouse=True)
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread (faster for images this small), and nothing written outside the tests' own folder."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("VISIONTUNE_LOGS", str(tmp_path_factory.mktemp("logs")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def logs(apart: None) -> Path:
    """Where runs go that are not told where."""
    return Path(os.environ["VISIONTUNE_LOGS"])


@pytest.fixture(scope="session")
def command(apart: None) -> Command:
    """`command("train", "seed=1")`: the real command line in this process."""

    def run(*arguments: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        code: object = 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["visiontune", *map(str, arguments)])
            patch.setenv("HYDRA_FULL_ERROR", "1")
            try:
                cli.main()
            except SystemExit as leave:
                code = leave.code or 0
        assert isinstance(code, int)
        return Outcome(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def small() -> list[str]:
    return SMALL


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    return TINY


@pytest.fixture(scope="session")
def config(apart: None) -> Callable[..., DictConfig]:
    """`config("strategy=full")`: train.yaml composed and complete, as `train()` takes it; small by default."""

    def make(*overrides: str, base: list[str] = TINY) -> DictConfig:
        with initialize_config_dir(str(config_dir()), version_base=None):
            cfg = compose("train", overrides=[*base, *overrides])
        with open_dict(cfg):
            cfg.name = cfg.name or "test"
            cfg.test = True if cfg.test == "auto" else cfg.test
        return cfg

    return make


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 noisy images of each of three colours, as `tiles/CLASS/N.png`: a set that can be learned."""
    root = tmp_path_factory.mktemp("photos") / "tiles"
    rng = np.random.default_rng(0)
    for name, colour in (("brick", (170, 90, 80)), ("grass", (90, 150, 80)), ("sky", (110, 130, 180))):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.normal(colour, 60, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")
    return root


@pytest.fixture(scope="session")
def trained(command: Command, tiles: Path, small: list[str]) -> Outcome:
    """A whole run on `tiles`: gradual unfreezing over four epochs, TensorBoard and all. Not to be changed."""
    return command(
        "train",
        *small,
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


@pytest.fixture
def run(trained: Outcome) -> RunDirectory:
    return trained.run


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
