"""The estimate of a sweep's time: steps times epochs, and what each measured kind of job counts."""

import math
import multiprocessing

import pytest
from omegaconf import DictConfig
from running import TINY

from visiontune.config.compose import initialized
from visiontune.config.derive import derive
from visiontune.config.jobs import check_jobs
from visiontune.config.launch import Launch
from visiontune.sweeps import estimate
from visiontune.sweeps.workers.slots import Slot
from visiontune.training.resolve import resolve

SLOT = Slot((), (), 1)


@pytest.fixture(scope="module")
def cfg() -> DictConfig:
    """64 images to train with and 270 to validate with, in batches of 32."""
    (job,) = check_jobs("train", [*TINY, "data.batch_size=32"], None)
    with initialized(None):
        return resolve(job.cfg, Launch.from_hydra(job.hydra))


def test_a_job_takes_its_steps_times_its_epochs(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(cfg: DictConfig, data: object, model: object, clock: estimate._Clock) -> None:
        assert clock.epochs == (9, 5, 0) and cfg.frozen_features.cache == "none"
        clock.steps, clock.validation_step = {9: 3.0, 5: 2.0, 0: 1.0}, 10.0

    monkeypatch.setattr(estimate, "_fit", fit)
    changes = {"trainer.max_epochs": 10, "frozen_features.cache": "memory", "probe": True}
    seconds = estimate.measure_job(derive(cfg, changes)) - estimate.JOB_SECONDS
    steps, validation_steps = 2, math.ceil(270 / 32)
    expected = 10 * (steps * 2.0 + validation_steps * 10.0) + (validation_steps + steps) * 10.0
    assert expected < seconds < expected + 5  # the network is built, which takes time


def test_steps_and_validation_are_measured(cfg: DictConfig) -> None:
    one = estimate.measure_job(cfg)
    assert estimate.JOB_SECONDS < one < estimate.JOB_SECONDS + 60
    assert estimate.measure_job(derive(cfg, {"trainer.max_epochs": 100_000})) > 100 * one


def test_kinds_count_as_often_as_they_have_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(cfg: DictConfig) -> float:
        if cfg.seconds is None:
            raise ValueError("it is not known")
        return cfg.seconds

    monkeypatch.setattr(estimate, "CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr(estimate, "measure_job", measure)
    kinds = [(DictConfig({"seconds": 1.0}), 3), (DictConfig({"seconds": 5.0}), 1)]
    assert estimate.estimate(kinds, SLOT) == (2.0, 2)
    assert estimate.estimate([(DictConfig({"seconds": None}), 1)], SLOT) == (pytest.approx(math.nan, nan_ok=True), 0)


def test_the_time_is_that_of_all_rounds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(estimate, "estimate", lambda kinds, slot: (60.0, 1))
    kind = {"search": None, "frozen_features": {"cache": "none"}}
    estimate.announce_time([(DictConfig(kind), 5)], 5, 2, SLOT)
    line = "  time: about 3 min with 2 workers, estimated from a few batches of 1 of 1 kind of jobs\n"
    assert capsys.readouterr().out == line
    estimate.announce_time([(DictConfig(kind | {"search": {"epochs": 1}}), 5)], 5, 2, SLOT)
    estimate.announce_time([(DictConfig(kind), 5)], 0, 2, SLOT)
    assert capsys.readouterr().out == ""
