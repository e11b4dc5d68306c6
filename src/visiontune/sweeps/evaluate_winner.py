"""Evaluate the winner of a sweep on the test split, once."""

import time
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from visiontune.analysis.results import add_results, write_report
from visiontune.data.recorded import read_rows
from visiontune.errors import RunError, UserError, some
from visiontune.runs.directory import RunDirectory
from visiontune.runs.links import check_links
from visiontune.runs.log import log, logging_to
from visiontune.sweeps.comparison.records import WinnerTest, read_tests, write_tests
from visiontune.sweeps.comparison.table import run_names, table
from visiontune.sweeps.comparison.winner import find_winner
from visiontune.sweeps.study.sweep import Sweep
from visiontune.training.build import build_data
from visiontune.training.evaluation import evaluate
from visiontune.training.load import load_model, open_run


def evaluate_winner(folder: Path, again: bool = False, trust: bool = False) -> WinnerTest:
    """Evaluate all runs of the winner on the test split, unless that has been done, and record the result.

    The record is written before the first image is read, so also a test that is killed counts. Runs with `test=true`
    have their result already.

    Args:
        folder: of the sweep.
        again: evaluate a winner although the test split has been used for another one.
        trust: the runs may build any class, see `check_trusted`.

    Raises:
        UserError: jobs are running, there is no winner or no test split, or it has been used for another winner.
        RunError: a metric could not be computed.
    """
    sweep = Sweep(folder)
    entries = sweep.entries()
    if running := [entry.path.name for entry in entries if entry.status["status"] == "running"]:
        raise UserError(f"--test: {some(running)} still run, and one of them may win: wait until they have finished")
    winner = find_winner(table(entries), dict(zip(run_names(entries), entries, strict=True)))
    tests = read_tests(sweep.path)
    test = next((test for test in tests if not set(winner.runs).isdisjoint(test.runs)), None)
    others = [other for other in tests if other is not test]
    if test is None and others and not again:
        raise UserError(
            f"the winner is now {winner.name}, and the test split has been used for {others[-1].name} "
            f"({others[-1].time}): the better of two test results is too optimistic. Report that one, or write "
            "--test-again, which records both"
        )
    values = test.values if test else {}
    runs = {name: open_run(str(sweep.path / name), trust) for name in winner.runs if name not in values}
    if test and not runs:
        return test
    for run, _ in runs.values():
        if all(row["split"] != "test" for row in read_rows(run.splits)):
            raise UserError(f"--test: the data of {run.path} has no test split")
        if not trust:
            check_links(run.path)
    begin = test.time if test else time.strftime("%Y-%m-%d %H:%M")
    test = WinnerTest(time=begin, values=values, **asdict(winner))
    write_tests(sweep.path, [*others, test])
    for name, (run, cfg) in runs.items():
        test.values[name] = read_or_evaluate(run, cfg, winner.metric, trust)
        write_tests(sweep.path, [*others, test])
    return test


def read_or_evaluate(run: RunDirectory, cfg: DictConfig, metric: str, trust: bool) -> float:
    """A metric of the test split, which is evaluated on one device if the run has no such metric.

    The other metrics, the predictions and the figures are added to those of the run.
    """
    with logging_to(None), run.lock():
        if metric in (metrics := run.read_metrics()):
            return metrics[metric]
        log.info(f"{run.path}: evaluate the test split")
        data = build_data(cfg, download=trust)
        data.assign_as(run.splits)
        model, _ = load_model(run, cfg)
        result = evaluate(model, data, "test", cfg.trainer.accelerator, cfg.trainer.precision)
        add_results(run, result)
        write_report(cfg, run, data, model, [result], run.report)
        if metric not in (metrics := run.read_metrics()):
            raise RunError(f"{metric} of {run.path} is {result.metrics.get(metric, 'missing')}: expected a number")
        return metrics[metric]
