"""Distil, prune, quantize: the fastest of many smaller models within limits."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, open_dict

from visiontune.compression.contenders import as_it_is
from visiontune.compression.front import write_front
from visiontune.compression.int8 import Int8
from visiontune.compression.measuring import pictures_of, running_on
from visiontune.compression.prune import Prune
from visiontune.compression.search import Chain, Limits, Point, explore, fastest, nearest
from visiontune.compression.step import Step, lost
from visiontune.compression.timing import alternating
from visiontune.compression.train_step import TrainStep, placed
from visiontune.errors import RunError, UserError
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_json
from visiontune.training.load import open_run

ORIGINAL = "ORIGINAL"
ROUNDS = 15


class Small(Step):
    """Searches over students, shares of the multiply-adds and 8 bits, in this order; see docs/compression.md.

    The candidates lie beside the run that is made, each in a folder of its own with what its steps made of it, so that
    a search that was killed goes on where it was.

    Args:
        max_drop: points that the monitored metric may lose on the validation split, see `lost`.
        max_latency_ms: of one image on `threads` threads; None: the original's.
        max_mb: of the weights, or of the file; None: the original's.
        students: by name, the overrides of train that make one; ``SOURCE`` in them is the run.
        prune: fractions of the multiply-adds that stay.
        train: overrides of train after pruning; ``ORIGINAL`` is the run that the search began with.
        int8: whether to try it.
        slack: points beyond `max_drop` at which a candidate is taken no further.
    """

    adjustable = ("max_drop", "max_latency_ms", "max_mb", "slack")

    def __init__(
        self,
        max_drop: float = 0.5,
        max_latency_ms: float | None = None,
        max_mb: float | None = None,
        students: Mapping[str, Sequence[str]] | None = None,
        prune: Sequence[float] = (0.5, 0.25),
        train: Sequence[str] = (),
        int8: bool = True,
        slack: float = 1.0,
        threads: int = 1,
    ) -> None:
        if min(max_drop, slack) < 0 or any(limit is not None and limit <= 0 for limit in (max_latency_ms, max_mb)):
            raise UserError("the limits of small: write max_drop=0.5, max_latency_ms=5, max_mb=4, or null for none")
        self.limits = Limits(max_drop, max_latency_ms or math.inf, max_mb or math.inf)
        self.enough, self.threads = max_drop + slack, threads
        self.students = {name: list(overrides) for name, overrides in (students or {}).items()}
        self.prune, self.train = {f"prune_{fraction:g}": fraction for fraction in prune}, list(train)
        self.levels = [list(self.students), list(self.prune), ["int8"] if int8 else []]
        self.refused: dict[Chain, str] = {}

    def check(self, cfg: DictConfig) -> DictConfig:
        """Each step of each candidate; those that cannot be made are no candidates, unless that is all of them."""
        made: dict[Chain, DictConfig] = {(): cfg}

        def tried(chain: Chain) -> Point:
            if chain:
                one = made[chain[:-1]]
                try:
                    for step in self._steps(chain[-1], str(cfg.compressed_from)):
                        one = step.check(one)
                    made[chain] = one
                except UserError as error:
                    self.refused[chain] = str(error)
                    print(f"no candidate {Point(chain).name}: {error}", flush=True)
            return Point(chain, failed=self.refused.get(chain, ""))

        list(explore(self.levels, tried, lambda _: True))
        if len(made) == 1:
            raise UserError(f"small has no candidate: {next(iter(self.refused.values()), 'give it students or prune')}")
        return cfg

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        folder = output.with_name(f"{output.name}_candidates")
        folder.mkdir(parents=True, exist_ok=True)
        measure = partial(self._point, source=source, folder=folder)
        points = []
        for point in explore(self.levels, measure, lambda point: point.drop <= self.enough):
            points.append(point)
            write_front(points, self.limits, self._objective(source)["name"], folder)
            print(f"candidate {said(point)}", flush=True)
        limits = self.limits.within(points[0])
        chosen = fastest(points, limits)
        if chosen is None:
            close = nearest(points, limits)
            raise RunError(
                f"no candidate keeps {' and '.join(limits.missed(close))}; the nearest is {said(close)}, in "
                f"{self._place(close.chain, source, folder)}; all that were found are in {folder / 'front.csv'}"
            )
        print(f"chosen {said(chosen)}", flush=True)
        return _copied(RunDirectory(self._place(chosen.chain, source, folder)), output)

    def _steps(self, name: str, original: str) -> list[Step]:
        if name in self.students:
            return [TrainStep(self.students[name], from_source=False)]
        if name in self.prune:
            train = [placed(override, ORIGINAL, original) for override in self.train]
            train += ["trust=true"] * (train != self.train)  # the original has been opened before
            return [Prune(macs=self.prune[name]), TrainStep(train)]
        return [Int8(max_drop=self.enough)]

    def _point(self, chain: Chain, source: RunDirectory, folder: Path) -> Point:
        """Of a candidate, which is made unless it has been."""
        file = folder / f"{Point(chain).name}.json"
        found = json.loads(file.read_text()) if file.is_file() else None
        if found and found.pop("enough", math.inf) >= self.enough:  # who failed at less may do now
            return Point(**{**found, "chain": tuple(found["chain"])})
        if chain in self.refused:
            return Point(chain, failed=self.refused[chain])
        try:
            run = self._made(chain, source, folder)
        except RunError as error:
            write_json(file, {"chain": chain, "failed": str(error), "enough": self.enough})
            return Point(chain, failed=str(error))
        except UserError as error:  # something that another search may find mended: not for good
            return Point(chain, failed=str(error))
        point = self._measured(chain, run, source, folder)
        write_json(file, asdict(point))
        return point

    def _made(self, chain: Chain, source: RunDirectory, folder: Path) -> RunDirectory:
        run = RunDirectory(self._place(chain, source, folder))
        if not chain or run.finished:
            return run
        before = self._made(chain[:-1], source, folder)
        steps = self._steps(chain[-1], str(source.path))
        for i, step in enumerate(steps, 1):
            place = run.path if i == len(steps) else run.path.with_name(f"{run.path.name}_{i}")
            after = RunDirectory(place)
            before = after if after.finished else step.apply(before, place)
        return before

    def _measured(self, chain: Chain, run: RunDirectory, source: RunDirectory, folder: Path) -> Point:
        """Timed in turn with the original, and told in the original's milliseconds of the search's beginning."""
        objective, first = self._objective(run), self._objective(source)
        with running_on(self.threads):
            models = {one.path: as_it_is("", *open_run(str(one.path), trust=True)) for one in (source, run)}
            calls = {str(path): partial(one.call, pictures_of(one, 1)) for path, one in models.items()}
            times = alternating(calls, ROUNDS)
        reference = times[str(source.path)].seconds * 1000
        if chain:
            reference = json.loads((folder / f"{Point(()).name}.json").read_text())["latency_ms"]
        latency = reference / times[str(run.path)].faster
        drop = lost(first["value"], objective["value"], first["mode"])
        return Point(chain, objective["value"], drop, latency, models[run.path].megabytes)

    @staticmethod
    def _place(chain: Chain, source: RunDirectory, folder: Path) -> Path:
        return folder / Point(chain).name if chain else source.path

    @staticmethod
    def _objective(run: RunDirectory) -> dict:
        return run.read_status()["objective"]


def said(point: Point) -> str:
    if point.failed:
        return f"{point.name}: {point.failed}"
    return f"{point.name}: {point.drop:.2f} points lost, {point.latency_ms:.2f} ms, {point.megabytes:.2f} MB"


def _copied(run: RunDirectory, output: Path) -> RunDirectory:
    """The run in another place, whole or not there."""
    half = output.with_name(f".{output.name}")
    for rest in (half, output):
        shutil.rmtree(rest, ignore_errors=True)
    shutil.copytree(run.path, half, ignore=shutil.ignore_patterns("compressed"))
    copy = RunDirectory(half)
    cfg = copy.read_config()
    with open_dict(cfg):
        cfg.run_dir = str(output)
    copy.write_config(cfg)
    half.rename(output)
    return RunDirectory(output)
