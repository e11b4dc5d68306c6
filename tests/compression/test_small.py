"""The search over runs: each step runs once, a killed search resumes, and the result."""

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig

from visiontune.compression import small
from visiontune.compression.small import Small
from visiontune.compression.step import Step, derive_run, source_config
from visiontune.compression.timing import Timing
from visiontune.compression.train_step import TrainStep
from visiontune.errors import RunError, UserError
from visiontune.runs import RunDirectory
from visiontune.runs.files import write_json

DROPS = {"tiny": 0.002, "prune_0.5": 0.001, "int8": 0.001, "windows": 0.0}
FASTER = {"tiny": 4.0, "prune_0.5": 2.0, "int8": 3.0, "windows": 1.0}


class FakeStep(Step):
    """A step that copies its source and lowers the metric by `DROPS`."""

    outputs: list[str] = []  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, cfg: DictConfig) -> DictConfig:
        if self.name == "windows":
            raise UserError("its attention is within windows")
        return cfg

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        if self.name in os.environ.get("DIES", "-"):
            derive_run(source, source_config(source), output)
            raise KeyboardInterrupt
        if self.name in os.environ.get("FAILS", "-"):
            raise {"RunError": RunError, "UserError": UserError}[os.environ["HOW"]]("int8 costs 9 points")
        self.outputs.append(f"{output.name}")
        run = derive_run(source, source_config(source), output)
        os.link(source.checkpoint("best"), run.checkpoints / "best.ckpt")
        before = source.read_status()["objective"]
        objective = {**before, "value": before["value"] - DROPS[self.name]}
        write_json(run.status, {"status": "finished", "objective": objective})
        return run


@pytest.fixture
def fake_steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps that take no time, with timings by name (`FASTER`); the list of runs in the order of their creation."""

    def steps(self: Small, name: str, original: str) -> list[Step]:
        return [FakeStep(name)]

    def time_by_name(calls: Mapping[str, object], rounds: int) -> dict[str, Timing]:
        timings = {}
        for path in calls:
            ratio = 1.0
            for step in Path(path).name.split("+"):
                ratio *= FASTER.get(step, 1.0)
            timings[path] = Timing(0.024 / ratio, ratio)
        return timings

    def fake_variant(name: str, run: RunDirectory, cfg: DictConfig) -> SimpleNamespace:
        return SimpleNamespace(call=print, megabytes=9.0 if "int8" in run.path.name else 10.0)

    monkeypatch.setattr(Small, "_steps", steps)
    monkeypatch.setattr(small, "time_alternately", time_by_name)
    monkeypatch.setattr(small, "eager_variant", fake_variant)
    monkeypatch.setattr(small, "input_images", lambda *_: None)
    monkeypatch.setattr(FakeStep, "outputs", [])
    return FakeStep.outputs


def search(max_drop: float = 0.35, **more: object) -> Small:
    return Small(max_drop=max_drop, students={"tiny": []}, prune=[0.5], **more)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_fastest_within_the_limits(run: RunDirectory, fake_steps: list[str], tmp_path: Path) -> None:
    result = search().apply(run, tmp_path / "0_small")
    # Each candidate runs once, after its first steps.
    assert sorted(fake_steps) == sorted(
        ["tiny", "tiny+prune_0.5", "tiny+prune_0.5+int8", "tiny+int8", "prune_0.5", "prune_0.5+int8", "int8"]
    )
    folder = tmp_path / "0_small_candidates"
    rows = {row["candidate"]: row for row in csv.DictReader((folder / "front.csv").open())}
    assert float(rows["tiny+prune_0.5+int8"]["drop"]) == pytest.approx(0.4)  # too much
    assert float(rows["tiny+int8"]["latency_ms"]) == pytest.approx(2.0) and rows["original"]["drop"] == "0.0"
    assert result.path == tmp_path / "0_small" and result.read_config().run_dir == str(result.path)
    assert result.read_config().compressed_from == str(folder / "tiny")
    before, after = (step_run.read_status()["objective"]["value"] for step_run in (run, result))
    assert before - after == pytest.approx(0.003) and result.checkpoint("best").is_file()
    assert (folder / "front.png").is_file()


@pytest.mark.slow
def test_a_killed_search_resumes(
    run: RunDirectory, fake_steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES", "int8")
    with pytest.raises(KeyboardInterrupt):
        search().apply(run, tmp_path / "0_small")
    assert fake_steps == ["tiny", "tiny+prune_0.5"]
    monkeypatch.delenv("DIES")
    result = search().apply(run, tmp_path / "0_small")
    assert fake_steps[2:] == ["tiny+prune_0.5+int8", "tiny+int8", "prune_0.5", "prune_0.5+int8", "int8"]
    again = search(max_drop=0.45).apply(run, tmp_path / "0_small")
    assert len(fake_steps) == 7  # other limits choose among finished candidates
    assert result.path == again.path and again.read_config().compressed_from.endswith("tiny+prune_0.5")


@pytest.mark.slow
def test_limits_that_no_candidate_keeps(run: RunDirectory, fake_steps: list[str], tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        search(max_latency_ms=1.5).apply(run, tmp_path / "0_small")
    assert "no candidate keeps max_drop;" in str(error.value)
    assert "tiny+prune_0.5+int8: 0.40 points lost, 1.00 ms, 9.00 MB" in str(error.value)
    assert (tmp_path / "0_small_candidates" / "front.csv").is_file() and not (tmp_path / "0_small").exists()


@pytest.mark.parametrize("how", ["RunError", "UserError"])
@pytest.mark.slow
def test_a_failed_candidate_does_not_end_the_search(
    how: str, run: RunDirectory, fake_steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "int8")
    monkeypatch.setenv("HOW", how)
    result = search().apply(run, tmp_path / "0_small")
    assert result.read_config().compressed_from.endswith("tiny")  # tiny+prune_0.5
    rows = {row["candidate"]: row for row in csv.DictReader((tmp_path / "0_small_candidates/front.csv").open())}
    assert rows["int8"]["failed"] == "int8 costs 9 points" and rows["int8"]["front"] == ""
    record = tmp_path / "0_small_candidates/int8.json"  # a UserError can be corrected, so the candidate is not recorded
    assert (how == "RunError") == record.is_file() and (how == "UserError" or json.loads(record.read_text())["failed"])
    monkeypatch.delenv("FAILS")
    search().apply(run, tmp_path / "0_small")
    assert fake_steps.count("int8") == (how == "UserError")
    search(max_drop=0.4).apply(run, tmp_path / "0_small")  # a failed candidate may succeed with a larger limit
    assert fake_steps.count("int8") == 1


@pytest.mark.slow
def test_the_result_is_the_run_if_no_candidate_is_better(
    run: RunDirectory, fake_steps: list[str], tmp_path: Path
) -> None:
    (run.path / "compressed").mkdir(exist_ok=True)
    result = search(max_drop=0.05).apply(run, tmp_path / "0_small")
    assert result.read_status()["objective"] == run.read_status()["objective"]
    assert not (result.path / "compressed").exists()
    (run.path / "compressed").rmdir()


@pytest.mark.slow
def test_unsupported_steps_give_no_candidates(run: RunDirectory, fake_steps: list[str], tmp_path: Path) -> None:
    cfg = source_config(run)
    small_step = Small(students={"windows": [], "tiny": []}, prune=[])
    assert small_step.check(cfg) == cfg
    assert small_step.refused == {("windows",): "its attention is within windows"}
    small_step.apply(run, tmp_path / "0_small")
    assert sorted(fake_steps) == ["int8", "tiny", "tiny+int8"]
    with pytest.raises(UserError, match=r"^small has no candidate: its attention is within windows$"):
        Small(students={"windows": []}, prune=[], int8=False).check(cfg)
    with pytest.raises(UserError, match=r"write max_drop=0\.5"):
        Small(max_mb=0)


def test_only_the_original_is_trusted_as_a_teacher() -> None:
    def overrides(*train: str) -> list[str]:
        _, step = Small(train=train)._steps("prune_0.5", "/runs/it's")
        assert isinstance(step, TrainStep)
        return step.overrides

    with_teacher = overrides("strategy=full", "distill.teacher=ORIGINAL")
    assert with_teacher == ["strategy=full", r"distill.teacher='/runs/it\'s'", "trust=true"]
    assert overrides("distill.teacher=/runs/another") == ["distill.teacher=/runs/another"]
