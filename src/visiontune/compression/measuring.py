"""Measure the original and the run of each step, in every variant, under the same conditions."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from visiontune.compression.bootstrap import BootstrapMetrics, MetricStates
from visiontune.compression.costs import macs, params
from visiontune.compression.inference import measure_peak_mb
from visiontune.compression.table import BATCH, Row
from visiontune.compression.timing import energy, time_alternately
from visiontune.compression.variants import Variant, compile_variant, eager_variant, export_variant, exported_file
from visiontune.data import VisionData
from visiontune.data.loaders import as_size
from visiontune.deployment.files import Exported, run_through
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import log
from visiontune.training.build import build_data
from visiontune.training.evaluation import evaluate
from visiontune.training.load import open_run

ORIGINAL = "original"
ROUNDS, BATCH_ROUNDS = 15, 5


def measure(runs: list[RunDirectory], threads: int, compile_first: bool = True) -> list[Row]:
    """One row per variant: `runs[0]` (the original) eager, compiled and exported; the others eager and exported.

    Metrics are those of the test split, or of the validation split if there is no test split. Times are measured in
    turn in this process, with `threads` CPU threads, from an image of the network's size to predictions.

    Args:
        compile_first: measure `torch.compile` of the original too, which takes a minute.
    """
    with use_threads(threads), TemporaryDirectory() as folder:
        results: list[Variant | Row] = []
        for i, run in enumerate(runs):
            _, cfg = open_run(str(run.path), trust=True)  # `compress` has checked it
            name = run.path.name if i else ORIGINAL
            first = eager_variant(name, run, cfg)
            results.append(first)
            if i == 0 and compile_first:
                images = input_images(first, 2)
                results.append(
                    _try_variant(f"{name}, compiled", threads, partial(compile_variant, eager=first, images=images))
                )
            if exported_file(run, cfg) is None:
                make = partial(export_variant, run=run, cfg=cfg, folder=Path(folder))
                results.append(_try_variant(f"{name}, exported", threads, make))
        rows = _rows([result for result in results if isinstance(result, Variant)], threads)
        return [result if isinstance(result, Row) else rows[result.name] for result in results]


def _try_variant(name: str, threads: int, make: Callable[[str], Variant]) -> Variant | Row:
    try:
        return make(name)
    except Exception as error:  # no C++ compiler, a missing extra, whatever they find in somebody's network
        text = str(error).strip() or type(error).__name__
        return Row(name, threads, note=text.splitlines()[0])


def _rows(variants: list[Variant], threads: int) -> dict[str, Row]:
    single = {c.name: partial(c.call, input_images(c, 1)) for c in variants}
    batches = {c.name: partial(c.batch, input_images(c, BATCH)) for c in variants}
    log.info(f"timing {len(variants)} models in turn")
    latency, throughput = time_alternately(single, ROUNDS), time_alternately(batches, BATCH_ROUNDS, turn=0)
    rows: dict[str, Row] = {}
    metrics: dict[Path, tuple[BootstrapMetrics, str]] = {}
    for c in variants:
        log.info(f"metrics of {c.name}")
        place = c.place or c.run.path  # a compiled model has the metrics of its eager one
        if place not in metrics:
            metrics[place] = bootstrap_metrics(c)
        (own_metrics, split), (first, _) = metrics[place], next(iter(metrics.values()))
        size = as_size(c.cfg.data.image_size)
        rows[c.name] = Row(
            c.name,
            threads,
            {f"{split}/{name}": own_metrics.estimate(name) for name in _ordered(c, own_metrics)},
            own_metrics.change(first, _ordered(c, own_metrics)[0]),
            *larger_drops(first.classes, own_metrics.classes),
            c.megabytes,
            params(c.model),
            macs(c.model, size),
            latency[c.name].seconds * 1000,
            latency[c.name].faster,
            BATCH / throughput[c.name].seconds,
            _memory(c, size, threads),
            energy(single[c.name]),
        )
    return rows


def _memory(variant: Variant, size: tuple[int, int], threads: int) -> float:
    """Peak memory in MB; NaN if it cannot be measured."""
    if variant.place is None:
        return math.nan
    try:
        return measure_peak_mb(variant.place, size, variant.cfg.data.channels, threads)
    except RuntimeError as error:
        log.warning(str(error))
        return math.nan


def bootstrap_metrics(variant: Variant, split: str | None = None) -> tuple[BootstrapMetrics, str]:
    """The metrics of a variant on bootstrap samples of a split, and the name of the split (default: test, else val)."""
    data, cfg = _data(variant), variant.cfg
    split = split or ("test" if data.samples("test") else "val")
    states = MetricStates()
    if isinstance(variant.call, Exported):
        run_through(variant.model, variant.call)
        evaluate(variant.model, data, split, "cpu", stored=True, callbacks=[states])
    else:
        evaluate(variant.model, data, split, cfg.trainer.accelerator, cfg.trainer.precision, callbacks=[states])
    return states.bootstrap_metrics(variant.model), split


def larger_drops(before: dict[str, float], after: dict[str, float]) -> tuple[dict[str, float], float]:
    """Points (hundredths) lost by classes that lost more than twice the mean, largest first; and the mean over all."""
    drops = {name: 100 * (before[name] - value) for name, value in after.items()}
    known = [value for value in drops.values() if not math.isnan(value)]
    mean = sum(known) / len(known) if known else math.nan
    large = {name: value for name, value in drops.items() if value > max(0.0, 2 * mean)}
    return dict(sorted(large.items(), key=lambda item: -item[1])), mean


def _ordered(variant: Variant, own_metrics: BootstrapMetrics) -> list[str]:
    """The names of the metrics: the monitored one first, then the monitor of each head."""
    heads = [f"{task}/{head.monitor}" for task, head in variant.model.heads.items()]
    return list(dict.fromkeys([variant.model.monitor[0].removeprefix("val/"), *heads, *own_metrics.values]))


def _data(variant: Variant) -> VisionData:
    data = build_data(variant.cfg)
    data.assign_as(variant.run.splits)
    return data


def input_images(variant: Variant, count: int) -> Tensor:
    """Images of the validation split at the network's size, ``(count, C, H, W)`` uint8."""
    batches = _data(variant).eval_loader("val", at_most=count)
    images = torch.cat([(batch["image"] * 255).round().byte() for batch in batches])
    return images.repeat(math.ceil(count / len(images)), 1, 1, 1)[:count].contiguous()


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
