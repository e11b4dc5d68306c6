"""The original and each step of a compression, every form that it has, measured alike."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from visiontune.compression.bootstrap import PictureStates, Resampled
from visiontune.compression.contenders import Contender, as_it_is, compiled, exported, own_file
from visiontune.compression.costs import macs, params
from visiontune.compression.inference import fresh_peak_mb
from visiontune.compression.table import BATCH, Row
from visiontune.compression.timing import alternating, energy
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
    """The original `runs[0]` eager, compiled and exported, then each other run, eager and exported or its own file.

    Metrics are of the test split where there is one, else of the validation split. Times are of `threads` threads on
    the processor, all in turn in this process, from an image of the network's size to predictions.

    Args:
        compile_first: with a row for `torch.compile`, which takes a minute.
    """
    with running_on(threads), TemporaryDirectory() as folder:
        found: list[Contender | Row] = []
        for i, run in enumerate(runs):
            _, cfg = open_run(str(run.path), trust=True)  # who compresses it has been asked
            name = run.path.name if i else ORIGINAL
            first = as_it_is(name, run, cfg)
            found.append(first)
            if i == 0 and compile_first:
                pictures = pictures_of(first, 2)
                found.append(_or_why(f"{name}, compiled", threads, partial(compiled, eager=first, pictures=pictures)))
            if own_file(run, cfg) is None:
                make = partial(exported, run=run, cfg=cfg, folder=Path(folder))
                found.append(_or_why(f"{name}, exported", threads, make))
        rows = _rows([one for one in found if isinstance(one, Contender)], threads)
        return [one if isinstance(one, Row) else rows[one.name] for one in found]


def _or_why(name: str, threads: int, make: Callable[[str], Contender]) -> Contender | Row:
    try:
        return make(name)
    except Exception as error:  # no C++ compiler, a missing extra, whatever they find in somebody's network
        text = str(error).strip() or type(error).__name__
        return Row(name, threads, note=text.splitlines()[0])


def _rows(contenders: list[Contender], threads: int) -> dict[str, Row]:
    one = {c.name: partial(c.call, pictures_of(c, 1)) for c in contenders}
    many = {c.name: partial(c.batch, pictures_of(c, BATCH)) for c in contenders}
    log.info(f"timing {len(contenders)} models, one after the other and again")
    latency, throughput = alternating(one, ROUNDS), alternating(many, BATCH_ROUNDS, turn=0)
    rows: dict[str, Row] = {}
    metrics: dict[Path, tuple[Resampled, str]] = {}
    for c in contenders:
        log.info(f"metrics of {c.name}")
        place = c.place or c.run.path  # what is compiled has the metrics of what it was compiled from
        if place not in metrics:
            metrics[place] = resampled(c)
        (own, split), (first, _) = metrics[place], next(iter(metrics.values()))
        size = as_size(c.cfg.data.image_size)
        rows[c.name] = Row(
            c.name,
            threads,
            {f"{split}/{name}": own.estimate(name) for name in _ordered(c, own)},
            own.change(first, _ordered(c, own)[0]),
            *larger_drops(first.classes, own.classes),
            c.megabytes,
            params(c.model),
            macs(c.model, size),
            latency[c.name].seconds * 1000,
            latency[c.name].faster,
            BATCH / throughput[c.name].seconds,
            _memory(c, size, threads),
            energy(one[c.name]),
        )
    return rows


def _memory(contender: Contender, size: tuple[int, int], threads: int) -> float:
    """NaN where it cannot be measured."""
    if contender.place is None:
        return math.nan
    try:
        return fresh_peak_mb(contender.place, size, contender.cfg.data.channels, threads)
    except RuntimeError as error:
        log.warning(str(error))
        return math.nan


def resampled(contender: Contender, split: str | None = None) -> tuple[Resampled, str]:
    """Its metrics over draws of the images of a split, of test where there is one if none is named; and which."""
    data, cfg = _data(contender), contender.cfg
    split = split or ("test" if data.samples("test") else "val")
    states = PictureStates()
    if isinstance(contender.call, Exported):
        run_through(contender.model, contender.call)
        evaluate(contender.model, data, split, "cpu", stored=True, callbacks=[states])
    else:
        evaluate(contender.model, data, split, cfg.trainer.accelerator, cfg.trainer.precision, callbacks=[states])
    return states.resampled(contender.model), split


def larger_drops(before: dict[str, float], after: dict[str, float]) -> tuple[dict[str, float], float]:
    """Points (hundredths) lost by the classes that lost more than twice the mean, the most first; and the mean."""
    lost = {name: 100 * (before[name] - value) for name, value in after.items()}
    known = [value for value in lost.values() if not math.isnan(value)]
    mean = sum(known) / len(known) if known else math.nan
    large = {name: value for name, value in lost.items() if value > max(0.0, 2 * mean)}
    return dict(sorted(large.items(), key=lambda item: -item[1])), mean


def _ordered(contender: Contender, own: Resampled) -> list[str]:
    """The names of its metrics: the monitored one first, then each head's own."""
    heads = [f"{task}/{head.monitor}" for task, head in contender.model.heads.items()]
    return list(dict.fromkeys([contender.model.monitor[0].removeprefix("val/"), *heads, *own.values]))


def _data(contender: Contender) -> VisionData:
    data = build_data(contender.cfg)
    data.assign_as(contender.run.splits)
    return data


def pictures_of(contender: Contender, count: int) -> Tensor:
    """``(count, C, H, W)`` uint8, of the validation split and the network's size."""
    batches = _data(contender).eval_loader("val", at_most=count)
    pictures = torch.cat([(batch["image"] * 255).round().byte() for batch in batches])
    return pictures.repeat(math.ceil(count / len(pictures)), 1, 1, 1)[:count].contiguous()


@contextmanager
def running_on(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
