"""soup.json: of which runs the weights of a run are the mean."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from visiontune.runs.files import write_json
from visiontune.runs.reading import read_json
from visiontune.runs.records import validate
from visiontune.sweeps.study.entries import SOUP

Text = Annotated[str, Field(max_length=10_000)]


class Candidate(BaseModel):
    """A run that may become part of a soup.

    Attributes:
        run: its name.
        score: the objective of the mean of the runs before it and of this one; None if it was left out.
        added: whether it is part of the soup.
        reason: why it was not added.
    """

    model_config = ConfigDict(strict=True)

    run: Text
    score: FiniteFloat | None = None
    added: bool = False
    reason: Text = ""


class Soup(BaseModel):
    """The content of soup.json.

    Attributes:
        kind: how the runs were chosen.
        objective: the metric that decides.
        candidates: the best objective first, then the runs that cannot be averaged.
    """

    model_config = ConfigDict(strict=True)

    kind: Text
    objective: Text
    candidates: list[Candidate]

    @property
    def members(self) -> list[str]:
        return [candidate.run for candidate in self.candidates if candidate.added]

    def describe(self, name: str) -> str:
        """The soup in the directory `name`, in one line."""
        score = [candidate.score for candidate in self.candidates if candidate.added and candidate.score is not None][
            -1
        ]
        return (
            f"{name}: {self.objective} {score:.4f}, the mean of {len(self.members)} of {len(self.candidates)} runs: "
            f"{', '.join(self.members)}"
        )

    def write(self, run: Path) -> None:
        write_json(run / SOUP, self.model_dump())


def read_soups(folder: Path) -> list[tuple[Path, Soup]]:
    """The soups that `compare soup=greedy` has made of the runs in a folder, with their run directories.

    Raises:
        UserError: a file cannot be read.
    """
    paths = sorted(path for path in folder.glob(f"soup*/{SOUP}"))
    return [(path.parent, validate(path, read_json(path), Soup)) for path in paths]
