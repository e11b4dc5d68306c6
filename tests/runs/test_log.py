"""The messages of a run, in train.log and in the terminal."""

import logging
import os
import warnings
from pathlib import Path

import pytest

from visiontune.runs.log import log, logging_to


def test_messages_and_warnings_of_a_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.log"
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler()])  # as some libraries leave it
    with logging_to(path):
        log.info("a message")
        logging.getLogger("lightning.pytorch").warning("of a library")
        with logging_to(None, quiet=True):
            warnings.warn("an inner warning", stacklevel=1)
        warnings.warn("a warning", stacklevel=1)
    lines = path.read_text()
    assert all(text in lines for text in ("a message", "of a library", "an inner warning", "a warning"))
    assert capfd.readouterr() == ("a message\n", "")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        names = ("visiontune", "lightning.pytorch", "py.warnings")
        handlers = [list(logging.getLogger(name).handlers) for name in names]
        return warnings.showwarning, handlers, len(os.listdir("/dev/fd"))

    before = state()
    for _ in range(3):
        with logging_to(tmp_path / "train.log"), logging_to(None):
            pass
    assert state() == before


def test_a_log_on_a_full_disk_raises_once(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(Path("/dev/full")):
        with pytest.raises(OSError, match="No space left") as error:
            log.info("first")
        log.info("second")
    assert error.value.filename == "/dev/full"
    assert capfd.readouterr() == ("first\nsecond\n", "")
