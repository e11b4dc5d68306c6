"""Check the type and range of every key of a composed config, with one message for a wrong value."""

import types
from difflib import get_close_matches
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from visiontune.config.schema.train import Train
from visiontune.config.schema.types import Section
from visiontune.config.schema.verbs import Compress, Evaluate, Export, Fetch, Predict
from visiontune.errors import UserError

VERBS: dict[str, type[Section]] = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "export": Export,
    "compress": Compress,
    "fetch": Fetch,
}


# Groups that are not the arguments of a class or function.
CLOSED = (
    "checkpoints",
    "distill",
    "frozen_features",
    "pretrained",
    "search",
    "sweep",
    "technique",
    "technique.sam",
    "technique.wise_ft",
    "data.split_ratio",
)


class MissingKey(UserError):
    """A config has no value for a key."""


def check(verb: str, cfg: DictConfig) -> DictConfig:
    """Resolve interpolations in a copy of `cfg` and convert each value to the type of its key (`epochs=1e1` is 10).

    Raises:
        MissingKey: a value is missing.
        UserError: a value has the wrong type or is out of range.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise MissingKey(_missing_message(verb, missing[0]))
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    if verb == "train":
        _drop_unchosen_heads(plain)
    model = VERBS[verb]
    for name, field in _fields(model).items():
        if name not in plain and _is_required(field.annotation):
            raise MissingKey(_missing_message(verb, name))
    try:
        checked = model.model_validate(plain)
    except ValidationError as error:
        raise UserError(_message(model, plain, error)) from None
    _write_back(plain, checked)
    return OmegaConf.create(plain)


def _drop_unchosen_heads(plain: dict[str, Any]) -> None:
    """Drop the options that `pretrained` gives to heads which `heads` does not choose.

    If the head of the pretrained model is not chosen, `pretrained.fallback_task` takes its place. If neither is chosen,
    only the backbone is used.
    """
    pretrained, heads = plain.get("pretrained"), plain.get("heads")
    if not isinstance(pretrained, dict) or not isinstance(heads, dict):
        return
    tasks = [str(pretrained[key]) for key in ("task", "fallback_task") if pretrained.get(key)]
    for task in tasks:
        if isinstance(options := heads.get(task), dict) and "_target_" not in options:
            del heads[task]
    if chosen := [task for task in tasks if task in heads]:
        pretrained["task"] = chosen[0]


def check_closed(cfg: DictConfig) -> None:
    """Refuse unknown keys in the groups that only this package reads; without this check, they would have no effect.

    Raises:
        UserError: the message names similar keys.
    """
    for group in CLOSED:
        section: type[BaseModel] | None = Train
        for part in group.split("."):
            section = _section(_fields(section)[part].annotation)
        node, known = OmegaConf.select(cfg, group), list(_fields(section))
        for name in node if OmegaConf.is_dict(node) else ():
            if name not in known:
                near = get_close_matches(str(name), known, cutoff=0.5) or known
                raise UserError(f"{group}.{name}: unknown key; write one of {', '.join(near)}")


def _is_required(annotation: Any) -> bool:
    return types.NoneType not in get_args(annotation)


def _write_back(plain: dict[str, Any], section: BaseModel) -> None:
    """Replace the values in `plain` by the converted values of `section`; keys keep their order."""
    for name, field in type(section).model_fields.items():
        key = field.alias or name
        if key in plain:
            plain[key] = _plain(plain[key], getattr(section, name))


def _plain(before: Any, value: Any) -> Any:
    if isinstance(value, BaseModel):
        _write_back(before, value)
        return before
    if isinstance(value, dict) and isinstance(before, dict):  # the keys may have been converted, in the same order
        return {key: _plain(old, inner) for (key, inner), old in zip(value.items(), before.values(), strict=True)}
    return value


def _missing_message(verb: str, key: str) -> str:
    """`VERB needs a value for KEY: write KEY=EXAMPLE`."""
    return f"{verb} needs a value for {key}: write {key}={describe_key(verb, key)[1]}"


def describe_key(verb: str, key: str) -> tuple[str, str]:
    """The valid values of a key in words, and an example as on the command line."""
    field: FieldInfo | None = None
    section: type[BaseModel] | None = VERBS[verb]
    for part in key.split("."):
        field = _fields(section).get(part)
        section = _section(field.annotation) if field else None
    example = _text(field.examples[0]) if field and field.examples else "VALUE"
    return (field.description if field else None) or "another value", example


def _fields(section: type[BaseModel] | None) -> dict[str, FieldInfo]:
    """The fields of a section by key."""
    return {info.alias or name: info for name, info in section.model_fields.items()} if section else {}


def _message(model: type[Section], plain: Any, error: ValidationError) -> str:
    """`KEY=VALUE: expected ..., got ...; write KEY=EXAMPLE` for the first wrong key."""
    path, field, value = [], None, plain
    section: type[BaseModel] | None = model
    for part in error.errors()[0]["loc"]:
        if section is None or not isinstance(value, dict) or part not in value:
            break
        fields = _fields(section)
        if part not in fields:
            break
        field, value = fields[str(part)], value[part]
        path.append(str(part))
        section = _section(field.annotation)
    key = ".".join(path)
    if field is None:
        return f"{'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}"
    example = (field.examples or ["VALUE"])[0]
    hint = "; in a YAML file, put quotes around text such as 'on' and '1.10'" if _lacks_quotes(error, path) else ""
    return f"{key}={_text(value)}: expected {field.description}, got {_kind(value)}; write {key}={_text(example)}{hint}"


def _lacks_quotes(error: ValidationError, path: list[str]) -> bool:
    """Whether a wrong value of the key may have been text: YAML reads `on` as true, and `1.10` as 1.1."""
    return any(
        entry["type"] == "string_type" and isinstance(entry["input"], bool | float)
        for entry in error.errors()
        if list(entry["loc"][: len(path)]) == path
    )


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation such as `Search | None` names."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)


def _text(value: Any) -> str:
    """Write a value as on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _kind(value: Any) -> str:
    if isinstance(value, str) and not value.strip():
        return "nothing"
    if value in ([], {}):
        return "an empty list" if value == [] else "an empty mapping"
    names = ((str, "text"), (list, "a list"), (dict, "a mapping"))
    return next((name for kind, name in names if isinstance(value, kind)), _text(value))
