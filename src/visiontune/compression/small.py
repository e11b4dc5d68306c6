"""Search for the fastest model within limits: distil, prune, quantize."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from visiontune.compression.int8 import Int8
from visiontune.compression.measuring import input_images, use_threads
from visiontune.compression.pareto import write_pareto_front
from visiontune.compression.prune import Prune
from visiontune.compression.search import Chain, Limits, Point, explore, fastest, nearest
from visiontune.compression.step import Step, metric_drop
from visiontune.compression.timing import time_alternately
from visiontune.compression.train_step import TrainStep, substitute
from visiontune.compression.variants import eager_variant
from visiontune.config.derive import derive
from visiontune.errors import RunError, UserError
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_json
from visiontune.runs.reading import read_json
from visiontune.training.load import open_run

ORIGINAL = "ORIGINAL"
ROUNDS = 15


class Small(Step):
    """Searches over students, pruning and quantization, in this order; see docs/compression.md.

    Each candidate has a folder beside the output, with the runs of its steps. A killed search resumes from them.

    Args:
        max_drop: allowed drop of the monitored metric on the validation split in points, see `metric_drop`.
        max_latency_ms: latency of one image on `threads` threads; None: the original's latency.
        max_mb: size of the weights or of the exported file in MB; None: the original's size.
        students: by name, the overrides of train that make a student; ``SOURCE`` in them is the run.
        prune: fractions of the multiply-adds that remain.
        train: overrides of train after pruning; ``ORIGINAL`` is the original run.
        int8: also quantize each candidate.
        slack: a candidate that drops more points than `max_drop` + `slack` gets no further steps.
        threads: number of CPU threads for the latency.

    Raises:
        UserError: a limit is negative or zero.
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
            raise UserError(
                "the limits of small must be positive: write max_drop=0.5, max_latency_ms=5, max_mb=4, or null for none"
            )
        self.limits = Limits(max_drop, max_latency_ms or math.inf, max_mb or math.inf)
        self.largest_drop, self.threads = max_drop + slack, threads
        self.students = {name: list(overrides) for name, overrides in (students or {}).items()}
        self.prune, self.train = {f"prune_{fraction:g}": fraction for fraction in prune}, list(train)
        self.levels = [list(self.students), list(self.prune), ["int8"] if int8 else []]
        self.refused: dict[Chain, str] = {}

    def check(self, cfg: DictConfig) -> DictConfig:
        """Check each step of each candidate, and leave out candidates that are not possible.

        Raises:
            UserError: no candidate is possible.
        """
        configs: dict[Chain, DictConfig] = {(): cfg}

        def check_chain(chain: Chain) -> Point:
            if chain:
                candidate_cfg = configs[chain[:-1]]
                try:
                    for step in self._steps(chain[-1], str(cfg.compressed_from)):
                        candidate_cfg = step.check(candidate_cfg)
                    configs[chain] = candidate_cfg
                except UserError as error:
                    self.refused[chain] = str(error)
                    print(f"no candidate {Point(chain).name}: {error}", flush=True)
            return Point(chain, failed=self.refused.get(chain, ""))

        list(explore(self.levels, check_chain, lambda _: True))
        if len(configs) == 1:
            advice = "write fractions such as recipe.steps.small.prune=[0.5]"
            raise UserError(f"small has no candidate: {next(iter(self.refused.values()), advice)}")
        return cfg

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        folder = output.with_name(f"{output.name}_candidates")
        folder.mkdir(parents=True, exist_ok=True)
        measure = partial(self._point, source=source, folder=folder)
        points = []
        for point in explore(self.levels, measure, lambda point: point.drop <= self.largest_drop):
            points.append(point)
            write_pareto_front(points, self.limits, self._objective(source)["name"], folder)
            print(f"candidate {describe(point)}", flush=True)
        limits = self.limits.within(points[0])
        chosen = fastest(points, limits)
        if chosen is None:
            closest = nearest(points, limits)
            raise RunError(
                f"no candidate keeps {' and '.join(limits.missed(closest))}; the nearest is {describe(closest)}, in "
                f"{self._path(closest.chain, source, folder)}; all candidates are in {folder / 'front.csv'}"
            )
        print(f"chosen {describe(chosen)}", flush=True)
        return _copy_run(RunDirectory(self._path(chosen.chain, source, folder)), output)

    def _steps(self, name: str, original: str) -> list[Step]:
        """The steps that a name in a chain stands for."""
        if name in self.students:
            return [TrainStep(self.students[name], from_source=False)]
        if name in self.prune:
            train = [substitute(override, ORIGINAL, original) for override in self.train]
            if train != self.train:
                train.append("trust=true")  # `compress` has checked the original
            return [Prune(macs=self.prune[name]), TrainStep(train)]
        return [Int8(max_drop=self.largest_drop)]

    def _point(self, chain: Chain, source: RunDirectory, folder: Path) -> Point:
        """Make a candidate, unless it exists, and return its measurements."""
        file = folder / f"{Point(chain).name}.json"
        record = read_json(file) if file.is_file() else None
        # A candidate that failed with a stricter limit runs again.
        if record and record.pop("largest_drop", math.inf) >= self.largest_drop:
            return Point(**{**record, "chain": tuple(record["chain"])})
        if chain in self.refused:
            return Point(chain, failed=self.refused[chain])
        try:
            run = self._make(chain, source, folder)
        except RunError as error:
            write_json(file, {"chain": chain, "failed": str(error), "largest_drop": self.largest_drop})
            return Point(chain, failed=str(error))
        except UserError as error:  # not recorded, since the user may fix it before the next search
            return Point(chain, failed=str(error))
        point = self._measure(chain, run, source, folder)
        write_json(file, asdict(point))
        return point

    def _make(self, chain: Chain, source: RunDirectory, folder: Path) -> RunDirectory:
        """Make the run of a candidate, after that of the shorter chain."""
        run = RunDirectory(self._path(chain, source, folder))
        if not chain or run.finished:
            return run
        latest = self._make(chain[:-1], source, folder)
        steps = self._steps(chain[-1], str(source.path))
        for i, step in enumerate(steps, 1):
            path = run.path if i == len(steps) else run.path.with_name(f"{run.path.name}_{i}")
            step_run = RunDirectory(path)
            latest = step_run if step_run.finished else step.apply(latest, path)
        return latest

    def _measure(self, chain: Chain, run: RunDirectory, source: RunDirectory, folder: Path) -> Point:
        """Time the run in turn with the original, and scale the latency to that of the original in the first record."""
        objective, reference_objective = self._objective(run), self._objective(source)
        with use_threads(self.threads):
            models = {path: eager_variant("", *open_run(str(path), trust=True)) for path in (source.path, run.path)}
            calls = {str(path): partial(model.call, input_images(model, 1)) for path, model in models.items()}
            times = time_alternately(calls, ROUNDS)
        reference = times[str(source.path)].seconds * 1000
        if chain:
            reference = read_json(folder / f"{Point(()).name}.json")["latency_ms"]
        latency = reference / times[str(run.path)].faster
        drop = metric_drop(reference_objective["value"], objective["value"], reference_objective["mode"])
        return Point(chain, objective["value"], drop, latency, models[run.path].megabytes)

    @staticmethod
    def _path(chain: Chain, source: RunDirectory, folder: Path) -> Path:
        return folder / Point(chain).name if chain else source.path

    @staticmethod
    def _objective(run: RunDirectory) -> dict:
        return run.read_status()["objective"]


def describe(point: Point) -> str:
    if point.failed:
        return f"{point.name}: {point.failed}"
    return f"{point.name}: {point.drop:.2f} points lost, {point.latency_ms:.2f} ms, {point.megabytes:.2f} MB"


def _copy_run(run: RunDirectory, output: Path) -> RunDirectory:
    """Copy the run; `output` is complete or does not exist."""
    temporary = output.with_name(f".{output.name}")
    for path in (temporary, output):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(run.path, temporary, ignore=shutil.ignore_patterns("compressed"))
    copy = RunDirectory(temporary)
    copy.write_config(derive(copy.read_config(), {"run_dir": str(output)}))
    temporary.rename(output)
    return RunDirectory(output)
