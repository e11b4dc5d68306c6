"""The check of a sweep before its first job: every mistake is named, and nothing is started."""

from pathlib import Path

from running import TINY, Command


def test_what_cannot_train_is_named_and_nothing_starts(command: Command, tmp_path: Path) -> None:
    arguments = [*TINY, f"sweep_dir={tmp_path / 'sweep'}"]
    message = command("train", "-m", *arguments, "seed=0,1", "heads=classification,regression").message
    assert message.splitlines() == [
        "2 of 4 jobs cannot train, so none is started:",
        "  heads.regression: the data has no such task, it has classification; choose heads for these, or write "
        "~heads.regression",
    ]
    message = command("train", "-m", *arguments, "seed=0,1", "monitor=nope").message
    assert message.startswith("monitor=nope cannot decide which epoch is best; write one of val/classification/acc")
    metrics = "val/classification/accuracy,val/classification/loss"
    message = command("train", "-m", *arguments, f"monitor={metrics}").message
    assert message == "some jobs maximize their objective and others minimize it: write monitor=METRIC"
    message = command("train", "-m", *arguments, "sweep.objectives=[val/classification/acc]").message
    assert message.startswith(
        "sweep.objectives: runs have no val/classification/acc; write some of val/classification/"
    )
    assert list(tmp_path.iterdir()) == []
