"""The mean of the weights of several runs as a new run."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from visiontune.analysis.results import report
from visiontune.data.recorded import read_rows
from visiontune.errors import UserError, listed, pluralize
from visiontune.loggers import open_loggers
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import save_atomically
from visiontune.runs.log import log, logging_to
from visiontune.strategies.lora import plain_state
from visiontune.sweeps.comparison.soups import Candidate, Soup
from visiontune.sweeps.comparison.table import find_entries
from visiontune.sweeps.comparison.winner import rank_runs
from visiontune.training.build import build_data
from visiontune.training.derived_run import create_derived_run
from visiontune.training.evaluation import best_score, evaluate, measure
from visiontune.training.load import load_model, open_run, read_checkpoint, read_schema, without_adapters
from visiontune.training.wise_ft import between

State = dict[str, Tensor]


def make_soup(folder: Path, trust: bool = False) -> RunDirectory:
    """Average the weights of the runs in a folder greedily (model soups, Wortsman et al. 2022).

    The best run comes first, then the others by their objective. A run is added to the mean unless the objective of the
    mean, on the validation split, becomes worse (https://arxiv.org/abs/2203.05482, recipe 1). Statistics of BatchNorm
    layers are averaged as well.

    Args:
        folder: a sweep directory, or a folder of runs; the new run is `soup` in it, or the next free name.
        trust: the runs may build any class, see `check_trusted`.

    Returns:
        The new run; the best run if no other is added.

    Raises:
        UserError: fewer than two runs have the architecture and the first weights of the best one, or they have other
            splits, so that some have trained on samples that others validate.
    """
    entries = {entry.path.name: entry for entry in find_entries([folder]) if not entry.is_soup}
    ranked = rank_runs(entries)
    runs = {name: open_run(str(entries[name].path), trust, loggers=True) for name in ranked}
    best, cfg = runs[ranked[0]]
    reasons = {name: reason for name, run in runs.items() if (reason := _explain_other_start(run[1], cfg))}
    similar = {name: run for name, (run, _) in runs.items() if name not in reasons}
    _check_enough(similar, ranked[0], reasons)
    _check_splits(similar)
    cfg = without_adapters(cfg)
    with logging_to(None):
        data = build_data(cfg, download=trust)
        data.assign_as(best.splits)
        model, _ = load_model(best, cfg, plain=True)
        objective, mode = (entries[ranked[0]].status["objective"][key] for key in ("name", "mode"))

        def score(state: State) -> float:
            model.load_state_dict(state)
            return evaluate(model, data, "val", cfg.trainer.accelerator, cfg.trainer.precision).metrics.get(
                objective, math.nan
            )

        log.info(f"{objective} of the mean of the runs so far:")
        state, candidates = average_greedily(_read_states(similar, reasons), score, mode)
        _check_enough([candidate.run for candidate in candidates], ranked[0], reasons)
        candidates += [Candidate(run=name, reason=f"left out: {reason}") for name, reason in reasons.items()]
        for name, reason in reasons.items():
            log.info(f"  {name}  left out: {reason}")
        soup = Soup(kind="greedy", objective=objective, candidates=candidates)
        if len(soup.members) < 2:
            log.info(f"the mean with any other run is worse than {ranked[0]} alone, so there is no new run")
            return best
    description = read_checkpoint(best.checkpoint("best"))["visiontune"] | {"soup": soup.members}
    description.pop("adapter_scale", None)
    run = create_derived_run(_free_path(folder), best, cfg, best.read_overrides())
    save_atomically(run.checkpoints / "best.ckpt", {"state_dict": state, "visiontune": description})
    soup.write(run.path)
    with run.running() as outcome, logging_to(run.log), open_loggers(cfg, run.path) as loggers:
        results = measure(cfg, run, data, model)
        report(cfg, run, data, model, results, loggers)
        outcome["objective"] = best_score(run, model, results)
    return run


def average_greedily(
    states: Iterable[tuple[str, State]], score: Callable[[State], float], mode: str
) -> tuple[State, list[Candidate]]:
    """Add each state to the mean of those before it, unless the score of the mean becomes worse.

    Args:
        states: name and weights, the best first; there is at least one.
        mode: "max" or "min".
    """
    mean: State = {}
    best, count, candidates = -math.inf, 0, []
    for name, state in states:
        mixed = between(mean, state, 1 / (count + 1)) if mean else state
        value = score(mixed)
        added = not mean or (value if mode == "max" else -value) >= best
        if added:
            mean, best, count = mixed, value if mode == "max" else -value, count + 1
        is_number = math.isfinite(value)
        reason = "" if added else "worse" if is_number else "has no score"
        candidates.append(Candidate(run=name, score=value if is_number else None, added=added, reason=reason))
        log.info(f"  {name}  {value:.4f}  {reason or 'added'}")
    return mean, candidates


def _read_states(runs: Mapping[str, RunDirectory], reasons: dict[str, str]) -> Iterator[tuple[str, State]]:
    """The best weights of each run; a run with other classes or another architecture than the first gets a reason."""
    first = None
    for name, run in runs.items():
        path = run.checkpoint("best")
        checkpoint = read_checkpoint(path)
        schema, state = read_schema(checkpoint, path), plain_state(checkpoint)
        layout = {key: (getattr(value, "shape", None), getattr(value, "dtype", None)) for key, value in state.items()}
        first = first or (schema, layout)
        if schema != first[0]:
            reasons[name] = "other classes"
        elif layout != first[1]:
            count = len({key for key, _ in layout.items() ^ first[1].items()})
            reasons[name] = f"another architecture, {pluralize(count, 'tensor differs', 'tensors differ')}"
        else:
            yield name, state


def _explain_other_start(cfg: DictConfig, best: DictConfig) -> str:
    """Why the weights of a run cannot be averaged with those of the best one; empty if they may."""
    if cfg.get("backend"):
        return "its model is an exported file"
    keys = ("weights_from", "pretrained.weights", "backbone.weights")
    starts = [[OmegaConf.select(config, key) for key in keys] for config in (cfg, best)]
    if starts[0] != starts[1]:
        return "starts from other pretrained weights"
    return "starts from other random weights" if not any(starts[0]) and cfg.seed != best.seed else ""


def _check_enough(runs: Collection[str], best: str, reasons: Mapping[str, str]) -> None:
    """Raise UserError if there are fewer than two runs."""
    if len(runs) < 2:
        lines = [f"{name}: {reason}" for name, reason in reasons.items()]
        raise UserError(
            f"soup=greedy: no other run has the architecture and the start of the best run {best}{listed(lines)}"
        )


def _check_splits(runs: Mapping[str, RunDirectory]) -> None:
    """Refuse runs that differ in the samples that they do not train on.

    Raises:
        UserError: some have trained on samples that others validate, so the score of a mean would be too good.
    """
    first, *others = runs
    samples = {
        name: {(row["path"], row["content"], row["split"]) for row in read_rows(run.splits) if row["split"] != "train"}
        for name, run in runs.items()
    }
    for name in others:
        if samples[name] != samples[first]:
            raise UserError(
                f"soup=greedy: {name} has other splits than {first}, so it may have trained on images that {first} "
                "validates, and the score of their mean would be too good. Average runs with the same splits, such as "
                "those of one seed; seeds need a data set with its own splits, and folds cannot be averaged"
            )


def _free_path(folder: Path) -> Path:
    paths = (folder / (f"soup_{number}" if number > 1 else "soup") for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
