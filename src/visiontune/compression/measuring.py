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
from visiontune.errors import first_line
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import log
from visiontune.training.build import build_data
from visiontune.training.evaluation import evaluate
from visiontune.training.load import open_run

ORIGINAL = "original"
ROUNDS, BATCH_ROUNDS = 15, 5


def measure(runs: list[RunDirectory], threads: int, compile_first: bool = True) -> list[Row]:
    """Measure each variant: `runs[0]` (the original) eager, compiled and exported; the others eager and exported.

    Metrics are those of the test split, or of the validation split if there is no test split. The variants are timed
    in turn in this process, with `threads` CPU threads, from an image of the network's size to predictions.

    Args:
        compile_first: also measure `torch.compile` of the original, which takes a minute.
    """
    with use_threads(threads), TemporaryDirectory() as folder:
        results: list[Variant | Row] = []
        for i, run in enumerate(runs):
            _, cfg = open_run(str(run.path), trust=True)  # `compress` has checked it
            name = run.path.name if i else ORIGINAL
            eager = eager_variant(name, run, cfg)
            results.append(eager)
            if i == 0 and compile_first:
                images = input_images(eager, 2)
                results.append(
                    _try_variant(f"{name}, compiled", threads, partial(compile_variant, eager=eager, images=images))
                )
            if exported_file(run, cfg) is None:
                build = partial(export_variant, run=run, cfg=cfg, folder=Path(folder))
                results.append(_try_variant(f"{name}, exported", threads, build))
        rows = _rows([result for result in results if isinstance(result, Variant)], threads)
        return [result if isinstance(result, Row) else rows[result.name] for result in results]


def _try_variant(name: str, threads: int, build: Callable[[str], Variant]) -> Variant | Row:
    """Build a variant, or a row with the reason why that is not possible."""
    try:
        return build(name)
    except Exception as error:  # no C++ compiler, a missing extra, an operation that cannot be exported
        return Row(name, threads, note=first_line(error))


def _rows(variants: list[Variant], threads: int) -> dict[str, Row]:
    """Measure the variants; the first one is the reference."""
    single = {variant.name: partial(variant.call, input_images(variant, 1)) for variant in variants}
    batches = {variant.name: partial(variant.batch, input_images(variant, BATCH)) for variant in variants}
    log.info(f"timing {len(variants)} models in turn")
    latency, throughput = time_alternately(single, ROUNDS), time_alternately(batches, BATCH_ROUNDS, turn=0)
    rows: dict[str, Row] = {}
    metrics: dict[Path, tuple[BootstrapMetrics, str]] = {}
    for variant in variants:
        log.info(f"metrics of {variant.name}")
        path = variant.path or variant.run.path  # a compiled model has the metrics of the eager model
        if path not in metrics:
            metrics[path] = bootstrap_metrics(variant)
        (variant_metrics, split), (reference, _) = metrics[path], next(iter(metrics.values()))
        names = _metric_names(variant, variant_metrics)
        drops, mean_drop = larger_drops(reference.classes, variant_metrics.classes)
        size = as_size(variant.cfg.data.image_size)
        rows[variant.name] = Row(
            variant.name,
            threads,
            metrics={f"{split}/{name}": variant_metrics.estimate(name) for name in names},
            change=variant_metrics.change(reference, names[0]),
            drops=drops,
            mean_drop=mean_drop,
            megabytes=variant.megabytes,
            parameters=params(variant.model),
            macs=macs(variant.model, size),
            latency_ms=latency[variant.name].seconds * 1000,
            faster=latency[variant.name].faster,
            throughput=BATCH / throughput[variant.name].seconds,
            peak_mb=_memory(variant, size, threads),
            joules=energy(single[variant.name]),
        )
    return rows


def _memory(variant: Variant, size: tuple[int, int], threads: int) -> float:
    """Peak memory in MB; NaN if it cannot be measured."""
    if variant.path is None:
        return math.nan
    try:
        return measure_peak_mb(variant.path, size, variant.cfg.data.channels, threads)
    except RuntimeError as error:
        log.warning(str(error))
        return math.nan


def bootstrap_metrics(variant: Variant, split: str | None = None) -> tuple[BootstrapMetrics, str]:
    """Compute the metrics of a variant on a split (default: test, else val); return them and the name of the split."""
    data, cfg = _data(variant), variant.cfg
    split = split or ("test" if data.samples("test") else "val")
    states = MetricStates()
    if isinstance(variant.call, Exported):
        run_through(variant.model, variant.call)
        evaluate(variant.model, data, split, "cpu", original_images=True, callbacks=[states])
    else:
        evaluate(variant.model, data, split, cfg.trainer.accelerator, cfg.trainer.precision, callbacks=[states])
    return states.bootstrap_metrics(variant.model), split


def larger_drops(before: dict[str, float], after: dict[str, float]) -> tuple[dict[str, float], float]:
    """Points (hundredths) lost by the classes that lost more than twice the mean, largest first; and the mean."""
    drops = {name: 100 * (before[name] - value) for name, value in after.items()}
    known = [value for value in drops.values() if not math.isnan(value)]
    mean = sum(known) / len(known) if known else math.nan
    large = {name: value for name, value in drops.items() if value > max(0.0, 2 * mean)}
    return dict(sorted(large.items(), key=lambda item: -item[1])), mean


def _metric_names(variant: Variant, metrics: BootstrapMetrics) -> list[str]:
    """The names of the metrics: the monitored one first, then the monitor of each head."""
    heads = [f"{task}/{head.monitor}" for task, head in variant.model.heads.items()]
    return list(dict.fromkeys([variant.model.monitor[0].removeprefix("val/"), *heads, *metrics.values]))


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
    """Let torch use `count` CPU threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
