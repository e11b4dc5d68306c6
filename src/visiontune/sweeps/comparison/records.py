"""sweep_test.json: which experiments of a sweep were evaluated on the test split, when, and the results."""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from visiontune.errors import pluralize
from visiontune.runs.files import write_json
from visiontune.runs.reading import read_json
from visiontune.runs.records import validate
from visiontune.sweeps.comparison.statistics import estimate_mean

FILE = "sweep_test.json"
Text = Annotated[str, Field(max_length=10_000)]


class WinnerTest(BaseModel):
    """The evaluation of a winner on the test split.

    Attributes:
        time: of its begin, as `2026-11-22 09:15`.
        settings: the values in which the winner differs from the other experiments.
        runs: names of the runs that were the winner.
        metric: that was the objective, on the test split.
        overlap: of the test splits of the runs, see `compare_groups`.
        values: the metric by the name of the run; runs that have not been evaluated yet are missing.
    """

    model_config = ConfigDict(strict=True)

    time: Text
    settings: Text
    runs: list[Text]
    metric: Text
    overlap: FiniteFloat
    values: dict[Text, FiniteFloat]

    @property
    def name(self) -> str:
        return self.settings or f"run {self.runs[0]}"

    def describe(self) -> str:
        """The result in one line."""
        done = f"tested {self.time}, {FILE}"
        if not self.values:
            return f"{self.metric} of {self.name}: not finished ({done})"
        mean = estimate_mean(np.array(list(self.values.values())), self.overlap)
        if len(self.values) == 1:
            return f"{self.metric} of {self.name}: {mean.value:.4f} ({done})"
        runs = pluralize(len(self.values), "run", "runs")
        interval = "" if np.isnan(mean.margin) else f", 95% interval {mean.low:.4f} to {mean.high:.4f}"
        return f"{self.metric} of {self.name}: mean of {runs} {mean.value:.4f}{interval} ({done})"


class _Content(BaseModel):
    tests: list[WinnerTest]


def read_tests(sweep: Path) -> list[WinnerTest]:
    """The evaluations of winners of a sweep, in their order.

    Raises:
        UserError: the file cannot be read.
    """
    path = sweep / FILE
    return validate(path, read_json(path), _Content).tests if path.is_file() else []


def write_tests(sweep: Path, tests: list[WinnerTest]) -> None:
    write_json(sweep / FILE, _Content(tests=tests).model_dump())
