"""The contents of the wheel."""

import tomllib
from importlib.metadata import EntryPoint
from importlib.resources import files
from pathlib import Path

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


def test_types_are_shipped() -> None:
    """hatchling packs every file of the package; the marker `py.typed` makes type checkers read its annotations."""
    assert files("visiontune").joinpath("py.typed").is_file()
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/visiontune", "src/hydra_plugins"]


def test_hydra_finds_the_sweeper() -> None:
    """Hydra 1.4 warns unless an entry point is a class; both versions also find the namespace package."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["hydra.plugins"].items()
    plugin = EntryPoint(name, value, "hydra.plugins").load()
    assert issubclass(plugin, Sweeper)
    assert plugin.__name__ in [sweeper.__name__ for sweeper in Plugins.instance().discover(Sweeper)]
