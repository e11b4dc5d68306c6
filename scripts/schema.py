"""Write configs/.schema/: a JSON schema for each group of train.yaml and for each verb, from the pydantic models.

Editors with a YAML language server complete and check the files that begin with `# yaml-language-server: $schema=...`.
"""

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter

from visiontune.config.check import VERBS

FOLDER = Path(__file__).parents[1] / "configs" / ".schema"
# Groups whose files hold the keys of the group; files of other groups begin at the top of the config.
GROUPS = ("augment", "backbone", "data", "launcher", "optimizer", "paths", "scheduler", "search", "strategy", "trainer")

BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}  # names in JSON schema


def schemas() -> dict[str, dict[str, Any]]:
    """Schemas by file name: one per group and per verb. The latter is also for `@package _global_` files."""
    models: dict[str, type[BaseModel]] = dict(VERBS)
    for group in GROUPS:
        annotation = VERBS["train"].model_fields[group].annotation
        models[group] = next(part for part in (annotation, *get_args(annotation)) if isinstance(part, type))
    return {f"{name}.json": _schema(model) for name, model in models.items()}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = TypeAdapter(model).json_schema(by_alias=True)
    _loosen(schema)
    schema["properties"]["defaults"] = {"type": "array"}
    return schema


def _loosen(node: Any) -> None:
    """Allow files with some of the keys, and interpolations and missing values (`???`) in place of any value."""
    if isinstance(node, list):
        for inner in node:
            _loosen(inner)
    elif isinstance(node, dict):
        for bound in sorted(BOUNDS.keys() & node.keys()):
            node[BOUNDS[bound]] = node.pop(bound)
        node.pop("required", None)
        node.pop("default", None)
        properties = node.get("properties", {})
        for key, value in properties.items():
            annotations = {name: value.pop(name) for name in ("description", "examples") if name in value}
            _loosen(value)
            properties[key] = {**annotations, "anyOf": [value, {"type": "string", "pattern": r"^\$\{.*\}$|^\?\?\?$"}]}
        for key, value in node.items():
            if key != "properties":
                _loosen(value)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        (FOLDER / name).write_text(json.dumps(schema, indent=1) + "\n")


if __name__ == "__main__":
    main()
