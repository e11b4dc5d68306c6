"""Keys of a sweep whose values vary together: those of each list in `sweep.zip` are paired by position."""

from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Override

from visiontune.errors import UserError

EXAMPLE = "'sweep.zip=[[optimizer.lr,data.batch_size]]'"
Zips = dict[str, dict[str, list[str]]]  # the keys, with commas -> the values, with commas -> their overrides


def split_zips(parsed: Iterable[Override], lists: Any) -> tuple[list[Override], Zips]:
    """Separate the overrides of keys that vary together from the others.

    Args:
        lists: the value of `sweep.zip`.

    Raises:
        UserError: a key has no list of values, the lists of two keys have other lengths, or a key is in two lists.
    """
    rest = {override.get_key_element(): override for override in parsed}
    zips: Zips = {}
    for keys in lists if isinstance(lists, list) else [lists]:
        if not isinstance(keys, list) or len(keys) < 2 or not all(isinstance(key, str) for key in keys):
            raise UserError(f"sweep.zip={lists}: expected lists of two keys or more, as in {EXAMPLE}")
        columns = {}
        for key in keys:
            if key in columns or any(key in name.split(",") for name in zips):
                raise UserError(f"sweep.zip: {key} is in it twice; a key varies with one list")
            override = rest.pop(key, None)
            if override is None or not override.is_discrete_sweep():
                problem = "has no values" if override is None else f"is {str(override.input_line).partition('=')[2]}"
                raise UserError(f"sweep.zip: {key} {problem}; expected a list of values, such as {key}=A,B")
            columns[key] = _read_values(override)
        lengths = {key: len(values) for key, values in columns.items()}
        if len(set(lengths.values())) > 1:
            numbers = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise UserError(f"sweep.zip: values are paired by position, so expected equal numbers of values: {numbers}")
        rows = zip(*columns.values(), strict=True)
        zips[",".join(keys)] = {
            ",".join(row): [f"{key}={value}" for key, value in zip(keys, row, strict=True)] for row in rows
        }
    return list(rest.values()), zips


def _read_values(override: Override) -> list[str]:
    value = override.value()
    if isinstance(value, ChoiceSweep):
        value.shuffle = False
    return list(override.sweep_string_iterator())
