"""The Trainer of an evaluation."""

import pytest
from lightning.pytorch.accelerators import MPSAccelerator

from visiontune.errors import UserError
from visiontune.training.evaluation import quiet_trainer


def test_an_accelerator_that_this_machine_lacks_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: False))
    with pytest.raises(UserError, match=r"^accelerator=mps: .* Write accelerator=cpu$"):
        quiet_trainer("mps", "32-true")
