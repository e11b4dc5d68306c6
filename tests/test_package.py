"""The contents of the wheel."""

import tomllib
from importlib.resources import files
from pathlib import Path


def test_types_are_shipped() -> None:
    """hatchling packs every file of the package; the marker `py.typed` makes type checkers read its annotations."""
    assert files("visiontune").joinpath("py.typed").is_file()
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/visiontune", "src/hydra_plugins"]
