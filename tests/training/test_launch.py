"""An error in a rank is one message."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

from visiontune.errors import RunError
from visiontune.runs import RunDirectory
from visiontune.training.launch import fit_ranks


def test_a_rank_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def spawn(*_: Any, **options: Any) -> None:
        assert options["nprocs"] == 2
        text = "-- Process 1 terminated with the following error:\nTraceback ...\nValueError: out of luck\n"
        raise ProcessRaisedException(text, 1, 12345)

    monkeypatch.setattr(torch.multiprocessing, "spawn", spawn)
    with pytest.raises(RunError) as error:
        fit_ranks(RunDirectory(tmp_path), 2, None)
    assert str(error.value) == "rank 1 failed: ValueError: out of luck (debug=true shows where)"
