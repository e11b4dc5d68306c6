"""The values that a tracking server has received."""

import csv
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from visiontune.runs.files import append, write_atomically


class SentRecords:
    """Remembers the last step at which each name was sent to a server that cannot delete what it has received.

    A resumed run repeats the steps after its last checkpoint and logs the same values again. They are not sent twice,
    so the server has one value for each name and step.

    Args:
        path: a CSV file with the columns step and name; it is read when it is first needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def last_steps(self) -> dict[str, int]:
        steps: dict[str, int] = {}
        if not self.path.is_file():
            return steps
        text = self.path.read_text()
        complete_lines = text[: text.rfind("\n") + 1]  # a killed process may leave half a line
        if complete_lines != text:
            with write_atomically(self.path) as file:
                file.write(complete_lines)
        for step, name in csv.reader(complete_lines.splitlines()):
            steps[name] = max(int(step), steps.get(name, -1))
        return steps

    def is_new(self, name: str, step: int) -> bool:
        return step > self.last_steps.get(name, -1)

    def add(self, names: Iterable[str], step: int) -> None:
        names = list(names)
        self.last_steps.update(dict.fromkeys(names, step))
        self.path.parent.mkdir(exist_ok=True)
        with append(self.path) as file:
            csv.writer(file, lineterminator="\n").writerows((step, name) for name in names)
