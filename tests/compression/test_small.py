"""The search with runs for candidates: what is made once, what a killed search goes on with, what is given back."""

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

LOST = {"tiny": 0.002, "prune_0.5": 0.001, "int8": 0.001, "windows": 0.0}
FASTER = {"tiny": 4.0, "prune_0.5": 2.0, "int8": 3.0, "windows": 1.0}


class Pretended(Step):
    """A step whose run is its source's, with a metric that fell by what the step costs."""

    made: list[str] = []  # noqa: RUF012

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
        self.made.append(f"{output.name}")
        run = derive_run(source, source_config(source), output)
        os.link(source.checkpoint("best"), run.checkpoints / "best.ckpt")
        before = source.read_status()["objective"]
        objective = {**before, "value": before["value"] - LOST[self.name]}
        write_json(run.status, {"status": "finished", "objective": objective})
        return run


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that cost nothing to make and are as fast as their names say; gives what was made, in order."""

    def steps(self: Small, name: str, original: str) -> list[Step]:
        return [Pretended(name)]

    def faster(calls: Mapping[str, object], rounds: int) -> dict[str, Timing]:
        found = {}
        for path in calls:
            ratio = 1.0
            for step in Path(path).name.split("+"):
                ratio *= FASTER.get(step, 1.0)
            found[path] = Timing(0.024 / ratio, ratio)
        return found

    def variant(name: str, run: RunDirectory, cfg: DictConfig) -> SimpleNamespace:
        return SimpleNamespace(call=print, megabytes=9.0 if "int8" in run.path.name else 10.0)

    monkeypatch.setattr(Small, "_steps", steps)
    monkeypatch.setattr(small, "time_alternately", faster)
    monkeypatch.setattr(small, "eager_variant", variant)
    monkeypatch.setattr(small, "input_images", lambda *_: None)
    monkeypatch.setattr(Pretended, "made", [])
    return Pretended.made


def search(max_drop: float = 0.35, **more: object) -> Small:
    return Small(max_drop=max_drop, students={"tiny": []}, prune=[0.5], **more)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_fastest_within_the_limits(run: RunDirectory, pretended: list[str], tmp_path: Path) -> None:
    found = search().apply(run, tmp_path / "0_small")
    # Everything once; what it begins with is there.
    assert sorted(pretended) == sorted(
        ["tiny", "tiny+prune_0.5", "tiny+prune_0.5+int8", "tiny+int8", "prune_0.5", "prune_0.5+int8", "int8"]
    )
    folder = tmp_path / "0_small_candidates"
    rows = {row["candidate"]: row for row in csv.DictReader((folder / "front.csv").open())}
    assert float(rows["tiny+prune_0.5+int8"]["drop"]) == pytest.approx(0.4)  # too much
    assert float(rows["tiny+int8"]["latency_ms"]) == pytest.approx(2.0) and rows["original"]["drop"] == "0.0"
    assert found.path == tmp_path / "0_small" and found.read_config().run_dir == str(found.path)
    assert found.read_config().compressed_from == str(folder / "tiny")
    before, after = (one.read_status()["objective"]["value"] for one in (run, found))
    assert before - after == pytest.approx(0.003) and found.checkpoint("best").is_file()
    assert (folder / "front.png").is_file()


@pytest.mark.slow
def test_a_killed_search_goes_on(
    run: RunDirectory, pretended: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES", "int8")
    with pytest.raises(KeyboardInterrupt):
        search().apply(run, tmp_path / "0_small")
    assert pretended == ["tiny", "tiny+prune_0.5"]
    monkeypatch.delenv("DIES")
    found = search().apply(run, tmp_path / "0_small")
    assert pretended[2:] == ["tiny+prune_0.5+int8", "tiny+int8", "prune_0.5", "prune_0.5+int8", "int8"]
    again = search(max_drop=0.45).apply(run, tmp_path / "0_small")
    assert len(pretended) == 7  # other limits choose among what is there
    assert found.path == again.path and again.read_config().compressed_from.endswith("tiny+prune_0.5")


@pytest.mark.slow
def test_limits_that_nothing_keeps(run: RunDirectory, pretended: list[str], tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        search(max_latency_ms=1.5).apply(run, tmp_path / "0_small")
    assert "no candidate keeps max_drop;" in str(error.value)
    assert "tiny+prune_0.5+int8: 0.40 points lost, 1.00 ms, 9.00 MB" in str(error.value)
    assert (tmp_path / "0_small_candidates" / "front.csv").is_file() and not (tmp_path / "0_small").exists()


@pytest.mark.parametrize("how", ["RunError", "UserError"])
@pytest.mark.slow
def test_what_fails_is_a_line_and_not_the_end(
    how: str, run: RunDirectory, pretended: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "int8")
    monkeypatch.setenv("HOW", how)
    found = search().apply(run, tmp_path / "0_small")
    assert found.read_config().compressed_from.endswith("tiny")  # tiny+prune_0.5
    rows = {row["candidate"]: row for row in csv.DictReader((tmp_path / "0_small_candidates/front.csv").open())}
    assert rows["int8"]["failed"] == "int8 costs 9 points" and rows["int8"]["front"] == ""
    kept = tmp_path / "0_small_candidates/int8.json"  # what may be mended is tried again
    assert (how == "RunError") == kept.is_file() and (how == "UserError" or json.loads(kept.read_text())["failed"])
    monkeypatch.delenv("FAILS")
    search().apply(run, tmp_path / "0_small")
    assert pretended.count("int8") == (how == "UserError")
    search(max_drop=0.4).apply(run, tmp_path / "0_small")  # who failed at less may do now
    assert pretended.count("int8") == 1


@pytest.mark.slow
def test_the_run_itself_where_nothing_is_better(run: RunDirectory, pretended: list[str], tmp_path: Path) -> None:
    (run.path / "compressed").mkdir(exist_ok=True)
    found = search(max_drop=0.05).apply(run, tmp_path / "0_small")
    assert found.read_status()["objective"] == run.read_status()["objective"]
    assert not (found.path / "compressed").exists()
    (run.path / "compressed").rmdir()


@pytest.mark.slow
def test_steps_that_refuse_are_no_candidates(run: RunDirectory, pretended: list[str], tmp_path: Path) -> None:
    cfg = source_config(run)
    one = Small(students={"windows": [], "tiny": []}, prune=[])
    assert one.check(cfg) == cfg
    assert one.refused == {("windows",): "its attention is within windows"}
    one.apply(run, tmp_path / "0_small")
    assert sorted(pretended) == ["int8", "tiny", "tiny+int8"]
    with pytest.raises(UserError, match=r"^small has no candidate: its attention is within windows$"):
        Small(students={"windows": []}, prune=[], int8=False).check(cfg)
    with pytest.raises(UserError, match=r"write max_drop=0\.5"):
        Small(max_mb=0)


def test_the_original_is_trusted_as_a_teacher_and_nobody_else() -> None:
    def overrides(*train: str) -> list[str]:
        _, step = Small(train=train)._steps("prune_0.5", "/runs/it's")
        assert isinstance(step, TrainStep)
        return step.overrides

    taught = overrides("strategy=full", "distill.teacher=ORIGINAL")
    assert taught == ["strategy=full", r"distill.teacher='/runs/it\'s'", "trust=true"]
    assert overrides("distill.teacher=/runs/another") == ["distill.teacher=/runs/another"]
