"""Every old name is refused, with the new one in the message."""

from pathlib import Path

import pytest
from running import Command

from visiontune.config.renamed import KEYS, OPTIONS


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("strategy=sam", "write technique=[ema,sam] strategy=full"),
        ("strategy=auto", "write search=strategy"),
        ("strategy=[lp_ft,l2_sp]", "write strategy=lp_ft technique=[ema,l2_sp]"),
        ("strategy=[sam,swa]", "write strategy=full technique=[sam,swa]"),
        ("strategy=[auto,l2_sp]", "write search=strategy technique=[ema,l2_sp]"),
        ("strategy.cache=memory", "write frozen_features.cache=memory"),
        ("strategy.pictures=0.5", "write search=strategy search.images=0.5"),
        ("strategy.thawed_by=0.5", "write strategy.unfrozen_by=0.5"),
        ("sam=0.05", "write technique=[ema,sam] technique.sam.rho=0.05"),
        ("callbacks.weight_average.horizon=0.2", "write technique.ema.horizon=0.2"),
        ("~callbacks.weight_average", "write technique=none"),
        ("backbone=default", "write backbone=efficientnet_lite0"),
    ],
)
def test_old_names(old: str, new: str, command: Command) -> None:
    message = command("train", old).message
    assert message.endswith(new), message


def test_every_entry_is_refused_in_a_sweep_too(command: Command) -> None:
    for option, new in OPTIONS.items():
        assert command("train", "-m", f"{option},full").message.endswith(f"write {new}")
    for old, new in KEYS.items():
        assert command("plan", f"{old}=1").message.endswith(f"write {new}=1")


def test_old_keys_in_a_file_of_the_user(command: Command, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nstrategy:\n  cache: memory\n")
    message = command("plan", "--config-dir", tmp_path, "experiment=mine").message
    assert message == "strategy.cache has a new name: write frozen_features.cache"


@pytest.mark.parametrize(("verb", "value"), [("predict", "false"), ("export", "100")])
def test_an_accepted_old_key_is_a_note(verb: str, value: str, command: Command) -> None:
    others = ["input=/nowhere"] if verb == "predict" else []
    outcome = command(verb, "run=/nowhere", *others, f"pictures={value}")
    note, error = outcome.err.splitlines()
    assert note == f"note: pictures is now called images: write images={value}"
    assert outcome.code == 2 and error.startswith("error: /nowhere is not a run directory")
