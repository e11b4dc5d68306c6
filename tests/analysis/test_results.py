"""The report of a run."""

import pytest
from running import Command

from visiontune.analysis import results


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
