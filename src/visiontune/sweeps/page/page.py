"""sweep.html: one page that compares runs. It needs no other file and no network, and its table needs no script."""

import base64
import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from visiontune.errors import one_line, printable
from visiontune.runs.files import write_atomically
from visiontune.sweeps.page.axes import Axis, build_axis
from visiontune.sweeps.page.curves import thin
from visiontune.sweeps.page.importance import MIN_RUNS, key_importance
from visiontune.sweeps.page.markup import (
    GENERATOR,
    Cell,
    format_cell,
    is_number,
    kind,
    link,
    scroll,
    section,
    table,
    text,
)
from visiontune.sweeps.page.samples import Sample
from visiontune.sweeps.study.curves import Curve

WEB = Path(__file__).parent / "web"
CURVE_POINTS, ALL_POINTS = 200, 200_000  # at most, of one run and of all runs


@dataclass(frozen=True)
class PageRun:
    """A run, or a job without a run, on the page.

    Attributes:
        settings: the value of each key that varies, as text; all runs have the same keys.
        value: the objective; NaN without one.
        cells: further columns.
        target: what its name links to, its report or its directory; None without either.
        curve: the objective over epochs.
    """

    name: str
    settings: dict[str, str]
    value: float
    status: str
    cells: dict[str, Cell] = field(default_factory=dict)
    error: str = ""
    target: Path | None = None
    curve: Curve = field(default_factory=list)


@dataclass(frozen=True)
class SweepPage:
    """The content of the page.

    Attributes:
        command: that started the runs, or that compares them.
        objective: name of the metric that decides.
        mode: "max" or "min".
        runs: the best first.
        repeats: keys whose runs repeat an experiment, such as `seed`; they have no importance.
        means: a row for each group of repeated runs, see `summarize_groups`.
        samples: some validation samples with the predictions of the best runs.
        results: what came after the sweep, the test of its winner and soups, each in one line.
    """

    title: str
    command: str
    objective: str
    mode: str
    runs: list[PageRun]
    repeats: tuple[str, ...] = ()
    means: list[dict[str, Cell]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    results: list[str] = field(default_factory=list)


def write_page(path: Path, page: SweepPage) -> None:
    """Write the page; its links are relative to its folder."""
    script = _read("charts.js") + _read("table.js")
    axes = [build_axis(key, [run.settings[key] for run in page.runs]) for key in page.runs[0].settings]
    sections = (_curves(page), _parallel(page, axes), _importance(page, axes), _means(page), _samples(page))
    content = Template(_read("page.html")).substitute(
        title=text(page.title),
        generator=GENERATOR,
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=_read("page.css"),
        summary=_summary(page, path.parent),
        runs=_runs(page, path.parent),
        sections="\n".join(filter(None, sections)),
        data=_data(page, axes),
        script=script,
    )
    with write_atomically(path) as file:
        file.write(content)


def _read(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _summary(page: SweepPage, folder: Path) -> str:
    counts = Counter(run.status for run in page.runs)
    rows = {
        "Command": f"<code>{text(page.command, 4000)}</code>",
        "Runs": text(f"{len(page.runs)}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common())),
        "Objective": text(f"{page.mode}imum of {page.objective}" if page.objective else "none yet"),
    }
    best = page.runs[0]
    if math.isfinite(best.value):
        settings = " ".join(f"{key}={value}" for key, value in best.settings.items())
        rows["Best"] = f"{_name(best, folder)}, {format_cell(best.value)}"
        rows["Best"] += f", <code>{text(settings, 4000)}</code>" if settings else ""
    if page.results:
        rows["Results"] = "<br>".join(text(line, 4000) for line in page.results)
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items()) + "</dl>"


def _name(run: PageRun, folder: Path) -> str:
    return link(run.name, run.target, folder) if run.target else text(run.name)


def _runs(page: SweepPage, folder: Path) -> str:
    """The table of the runs, whose headings say how it is sorted."""
    rows = [{"value": run.value} | run.settings | run.cells | {"status": run.status} for run in page.runs]
    errors = {"error": "wide bad"} if any(run.error for run in page.runs) else {}
    numeric: dict[str, str] = {name: "number" if all(is_number(row[name]) for row in rows) else "" for name in rows[0]}
    order = "descending" if page.mode == "max" else "ascending"
    heads = ['<th scope="col">run</th>']
    for name, style in (numeric | errors).items():
        sorting = f' data-first="{order}"' if name == "value" else ""
        if sorting and "pareto" not in rows[0]:  # else the runs on the front come first
            sorting += f' aria-sort="{order}"'
        heads.append(f'<th scope="col"{kind(style.removesuffix(" bad"))}{sorting}>{text(name)}</th>')
    body = []
    for run, row in zip(page.runs, rows, strict=True):
        cells = [f'<th scope="row">{_name(run, folder)}</th>']
        for name, style in (numeric | errors).items():
            failed = name == "status" and run.status == "failed"
            content = run.error if name in errors else format_cell(row[name])
            cells.append(f"<td{kind(style, failed and 'bad')}>{text(content)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    lines = "\n".join(body)
    return f'<table id="runs"><thead><tr>{"".join(heads)}</tr></thead><tbody>\n{lines}\n</tbody></table>'


def _curves(page: SweepPage) -> str:
    if not any(run.curve for run in page.runs):
        return ""
    chart = '<div class="chart" id="curves"></div>\n<ul class="legend" id="legend"></ul>'
    return section(f"{page.objective} over epochs", _needs_script("metrics.csv of each run") + chart)


def _parallel(page: SweepPage, axes: list[Axis]) -> str:
    if not axes or not any(math.isfinite(run.value) for run in page.runs):
        return ""
    explanation = (
        "<p>Each line is a run with an objective. Ticked runs have the colours of their curves, the others are grey. "
        "An axis is logarithmic if its numbers span more than a factor of 100.</p>\n"
    )
    chart = '<div class="chart" id="parallel" role="region" aria-label="All keys" tabindex="0"></div>'
    return section("All keys", explanation + _needs_script("the table") + chart)


def _needs_script(place: str) -> str:
    return f"<noscript><p>This chart needs JavaScript. Its numbers are in {place}.</p></noscript>\n"


def _importance(page: SweepPage, axes: list[Axis]) -> str:
    candidates = [axis for axis in axes if axis.key not in page.repeats]
    shares = key_importance(candidates, [run.value for run in page.runs])
    if not shares:
        return ""
    count = sum(math.isfinite(run.value) for run in page.runs)
    explanation = (
        f"How much of the variance of {page.objective} over these {count} runs each key explains on its own. fANOVA "
        f"estimates it with a random forest, roughly if there are few runs (at least {MIN_RUNS})."
    )
    if omitted := [axis.key for axis in candidates if axis.key not in shares]:
        explanation += (
            f" Not estimated, since some runs have no number, the values are too many, or only unfinished runs differ: "
            f"{', '.join(omitted)}."
        )
    bars = "\n".join(
        f'<tr><th scope="row">{text(key)}</th><td class="number">{share:.0%}</td>'
        f'<td class="bar" aria-hidden="true"><span style="width: {share:.1%}"></span></td></tr>'
        for key, share in (shares | {"several keys together": max(0.0, 1 - sum(shares.values()))}).items()
    )
    return section(
        "Importance of the keys", f"<p>{text(explanation, 4000)}</p>\n<table><tbody>\n{bars}\n</tbody></table>"
    )


def _means(page: SweepPage) -> str:
    if not page.means:
        return ""
    title = f"Means over {' and '.join(key for key in page.repeats if key in page.runs[0].settings)}"
    explanation = (
        "<p>Low and high are the ends of 95% intervals, for the differences of all rows together. "
        "p is adjusted for the number of rows.</p>\n"
    )
    return section(title, explanation + scroll(title, table(page.means), "tall"))


def _samples(page: SweepPage) -> str:
    if not page.samples:
        return ""
    title = "Samples that the best runs predict differently"
    explanation = "<p>Samples of the validation split, and what the best checkpoint of each run predicts.</p>\n"
    rows = [{"sample": sample.path, "truth": sample.truth} | sample.predictions for sample in page.samples]
    images = [f'<img src="{text(sample.image, 10**6)}" alt="">' if sample.image else "" for sample in page.samples]
    return section(title, explanation + scroll(title, table(rows, images), "samples"))


def _data(page: SweepPage, axes: list[Axis]) -> str:
    """What the charts draw, as JSON that can stand in a script element."""
    most = min(CURVE_POINTS, max(20, ALL_POINTS // len(page.runs)))
    content: dict[str, Any] = {"objective": page.objective, "mode": page.mode, "runs": [], "axes": []}
    for run in page.runs:
        epochs, values = zip(*thin(run.curve, most), strict=True) if run.curve else ((), ())
        value = run.value if math.isfinite(run.value) else None
        rounded = [float(f"{value:.5g}") for value in values]
        content["runs"].append(
            {"name": printable(one_line(run.name)), "value": value, "epochs": epochs, "values": rounded}
        )
    for axis in axes:
        categories = [printable(one_line(category)) for category in axis.categories]
        content["axes"].append({"key": axis.key, "values": axis.values, "categories": categories, "log": axis.log})
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
