"""The report of a run."""

import pytest
import torch
from running import Command

from visiontune.analysis import results
from visiontune.models.heads.metrics import PerClass
from visiontune.training.evaluation import Evaluation


@pytest.mark.parametrize("values", [torch.tensor([0.25, 0.5]), torch.tensor(0.25)])
def test_a_table_of_the_classes(values: torch.Tensor) -> None:
    """torchmetrics makes a scalar of the value of a single class."""
    classes = ("person", "dog")[: values.numel()]
    ap, box_ap = PerClass("ap", classes, values), PerClass("box_ap", classes, values + 0.125)
    result = Evaluation("test", {}, [], {}, {"instances": {"ap": ap, "box_ap": box_ap}})
    table = results.results_table([result]).split("\n\n")[1]
    lines = ["instances by class, test", "class       ap  box_ap", "person  0.2500  0.3750", "dog     0.5000  0.6250"]
    assert table.splitlines() == lines[: 2 + len(classes)]


@pytest.mark.slow
def test_a_run_whose_report_fails_is_finished(
    command: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(results, "write_page", fail)
    outcome = command("train", *tiny)
    assert "warning: the report is not complete: MemoryError: MemoryError" in outcome.out.splitlines()
    assert outcome.run.read_status()["status"] == "finished" and outcome.run.metrics.is_file()
