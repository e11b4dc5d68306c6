"""Usage, help and exit codes of the command, without a run."""

from importlib.metadata import version
from pathlib import Path

import pytest
from running import Command

from visiontune import evaluate
from visiontune.cli import VERBS
from visiontune.config.compose import config_dir
from visiontune.runs import RunDirectory
from visiontune.training.evaluation import Evaluation


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_usage(arguments: list[str], command: Command) -> None:
    outcome = command(*arguments)
    assert outcome.code == 0 and outcome.err == ""
    assert outcome.out.startswith("visiontune VERB [overrides]\n")
    assert all(f"\n  {verb} " in outcome.out for verb in VERBS)


def test_version(command: Command) -> None:
    assert command("--version").out.strip() == version("visiontune")


def test_every_verb_has_a_config_or_is_known_to_have_none() -> None:
    verbs = {path.stem for path in config_dir().glob("*.yaml")}
    assert verbs == set(VERBS) - {"plan", "compare", "work"}  # plan uses train.yaml; the others take directories


@pytest.mark.parametrize("verb", ["train", "plan", "evaluate", "predict"])
def test_help_of_a_verb_lists_its_keys(verb: str, command: Command) -> None:
    outcome = command(verb, "--help")
    assert outcome.code == 0, outcome.err
    wanted = (
        ["strategy: bias_only, bit_hyperrule, discriminative, ", "max_epochs:"]
        if verb in ("train", "plan")
        else ["run: ???"]
    )
    assert all(text in outcome.out for text in wanted)


def test_the_composed_config_is_printed(command: Command) -> None:
    outcome = command("train", "--cfg", "job", "optimizer.lr=0.125")
    assert outcome.code == 0 and "\n  lr: 0.125\n" in outcome.out


def test_a_user_config_folder(command: Command, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.25\n")
    outcome = command("plan", "--config-dir", tmp_path, *tiny, "experiment=mine")
    assert outcome.code == 0, outcome.err
    assert "2.50e-01" in outcome.out


def test_long_metric_names_are_separated_from_values(
    run: RunDirectory, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test/classification/recall/{'x' * 40}"
    monkeypatch.setattr(evaluate, "evaluate_run", lambda *_: Evaluation("test", {name: 0.5}, [], {}, {}))
    assert command("evaluate", f"run={run.path}").out == f"{name} 0.50000000\n"
