"""The JSON schemas in configs/.schema are those of the models, and every modeline names one."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from visiontune.config.compose import config_dir

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "schema.py"))
SCHEMAS: dict[str, dict[str, Any]] = SCRIPT["schemas"]()


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_written_schemas_are_those_of_the_models(name: str) -> None:
    """`make schema` writes them."""
    assert json.loads((config_dir() / ".schema" / name).read_text()) == SCHEMAS[name]


def test_a_schema_describes_the_values_of_a_key() -> None:
    epochs = SCHEMAS["trainer.json"]["properties"]["max_epochs"]
    assert epochs["description"] == "a whole number from 1 to 1000000" and epochs["examples"] == [30]
    assert {"minimum": 1, "maximum": 1000000, "type": "integer"} in epochs["anyOf"][0]["anyOf"]


def test_every_modeline_names_a_schema() -> None:
    files = [path for path in config_dir().rglob("*.yaml") if "$schema=" in path.read_text()]
    assert len(files) > 50
    for path in files:
        line = next(line for line in path.read_text().splitlines() if "$schema=" in line)
        assert (path.parent / line.partition("$schema=")[2]).is_file(), path
