"""report/index.html: one page that reads only the images in its folder."""

import csv
from collections.abc import Collection
from html import escape
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from visiontune.errors import one_line
from visiontune.models.heads.drawing import LONGEST_LABEL, save_figure
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.runs.log import warn_on_failure

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: left }
td + td { font-variant-numeric: tabular-nums } img { max-width: 100% }
code { background: #f2f2f2; padding: .1rem .3rem }
"""


def write_page(
    folder: Path,
    run: RunDirectory,
    split: str,
    metrics: dict[str, float],
    images: list[str],
    source: str | None = None,
    per_class: Collection[str] = (),
) -> None:
    """Write the page: the metrics of a run, its curves, and `images`.

    Args:
        folder: of the page and its images.
        images: file names in `folder`.
        source: the run that this run was compressed from.
        per_class: metrics `TASK/METRIC/CLASS` that get no curve.
    """
    origin = f" It was compressed from the run <code>{escape(source)}</code>." if source else ""
    with warn_on_failure("curves.png"):
        if _draw_curves(folder, run, per_class):
            images = ["curves.png", *images]
    images = [*images, *(path.name for path in folder.glob("lr_range.png"))]  # of the learning-rate range test
    rows = "\n".join(f"<tr><td>{escape(name)}</td><td>{value:.4f}</td></tr>" for name, value in sorted(metrics.items()))
    figures = "\n".join(
        f'<h2>{escape(name.removesuffix(".png").replace("_", " "))}</h2><img src="{escape(name)}" alt="{escape(name)}">'
        for name in images
    )
    with write_atomically(folder / "index.html") as file:
        file.write(
            f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(run.path.name)}</title><style>{STYLE}</style></head><body>
<h1>{escape(run.path.parent.name)} / {escape(run.path.name)}</h1>
<p>The best checkpoint, evaluated on {escape(split)}. The configuration is in <code>config.yaml</code>, every
sample in <code>predictions.csv</code>.{origin}</p>
<table><tr><th>metric</th><th>value</th></tr>
{rows}
</table>
{figures}
</body></html>
"""
        )


def _draw_curves(folder: Path, run: RunDirectory, per_class: Collection[str]) -> bool:
    """Write curves.png from metrics.csv: the losses, and every other metric of the validation split.

    Returns:
        Whether metrics.csv has a row.
    """
    if not run.history.is_file():
        return False
    with run.history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return False
    names = [name for name in rows[0] | rows[-1] if name.startswith(("train/", "val/"))]
    names = [name for name in names if name.partition("/")[2] not in per_class]
    names = [name for name in names if not name.endswith("/weight") and name != "train/skipped_steps"]
    losses = [name for name in names if name.startswith("train/") or name.endswith("loss")]
    curve_names = (losses, [name for name in names if name not in losses])
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    for axes, plotted in zip(figure.subplots(1, 2), curve_names, strict=True):
        axes.set_prop_cycle(color=[colormaps["tab20"](i) for i in range(20)])
        for name in plotted:
            points = [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name, "nan") not in ("", "nan")]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=one_line(name, LONGEST_LABEL))
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            legend = axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
            for text in legend.get_texts():
                text.set_parse_math(False)
    save_figure(figure, folder / "curves.png")
    return True
