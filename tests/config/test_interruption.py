"""A signal that comes while a library composes a config: the command was stopped, and its config is not wrong."""

from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from running import Command

from visiontune import signals
from visiontune.config import jobs
from visiontune.config.messages import raise_interruption
from visiontune.errors import UserError


def fail_in_cleanup(error: Exception) -> Any:
    """What OmegaConf does when a signal comes while it changes its flags."""

    def call(*_: object) -> None:
        try:
            raise signals.Interrupted(15)
        except signals.Interrupted:
            raise error  # noqa: B904

    return call


def test_an_error_of_a_library_is_replaced_by_the_signal_behind_it() -> None:
    error, wrong_config = AttributeError("no attribute"), UserError("the disk is full")
    for replacement in (error, wrong_config):
        with pytest.raises(type(replacement)):
            fail_in_cleanup(replacement)()
    with pytest.raises(signals.Interrupted):
        raise_interruption(error)
    raise_interruption(wrong_config)  # raises nothing
    raise_interruption(AttributeError("without a signal"))


@pytest.mark.parametrize("verb", ["train", "plan"])
def test_a_sweep_that_is_stopped_while_it_composes(
    verb: str, command: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "check", fail_in_cleanup(ConfigCompositionException("no attribute")))
    outcome = command(verb, "-m", *tiny, "seed=0,1", "sweep.workers=0")
    assert (outcome.code, outcome.err) == (143, "stopped by SIGTERM\n")
