"""Generated names and values on the command line: they come back exactly as typed, or one message names the key."""

import os
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from killing import run_forked
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from running import SMALL

from visiontune.config.check import check
from visiontune.config.compose import config_dir, train_config
from visiontune.config.messages import explain
from visiontune.config.overrides import prepare
from visiontune.errors import UserError

pytestmark = pytest.mark.slow

TEXT_KEYS = (
    "name", "note", "run_dir", "data.root", "data.table", "data.label", "paths.logs", "weights_from", "monitor",
)  # fmt: skip
LIST_KEYS = ("tags", "data.classes", "data.labels")
OTHER_KEYS = (
    "seed", "epochs", "optimizer.lr", "test", "data.image_size", "data.batch_size", "data.cache", "l1", "probe",
)  # fmt: skip
# What an argument can hold: all but NUL. Lone surrogates are bytes that are not UTF-8.
SPECIAL = st.sampled_from(list("'\"\\[]{}()$,:=#%~!&;|*?<>@ \t\n\r\u00a0\u2028\ufeff\U0001f600eE0123456789.-+_"))
CHARACTERS = st.characters(exclude_characters="\0", codec="utf-8")
WORDS = st.sampled_from(
    ["null", "true", "FALSE", "nan", "1e5", "0x1", "2024_06", "${seed}", "choice(a,b)", "???", "1:30"]
)
NAMES = st.one_of(
    st.text(st.one_of(SPECIAL, st.characters(codec="ascii", exclude_characters="\0")), min_size=1, max_size=12),
    st.text(st.one_of(CHARACTERS, SPECIAL), min_size=1, max_size=20),
    st.lists(st.one_of(WORDS, SPECIAL), min_size=1, max_size=4).map("".join),
)
common = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def base() -> DictConfig:
    """The config of `train data=csv`, composed once."""
    return train_config([*SMALL, "data=csv", "data.root=x", "data.table=t.csv"])


def value_in(base: DictConfig, override: str) -> Any:
    """The value that an override sets in the checked config, after it was written to a file and read again.

    Raises:
        UserError: the override is refused; the message names the key.
    """
    key = override.partition("=")[0]
    try:
        (prepared,) = prepare("train", [override], multirun=False)
        cfg = OmegaConf.masked_copy(base, list(base))
        apply(cfg, prepared)
        checked = check("train", cfg)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        message = explain(error, "train", [override], config_dir())
    else:
        top = key.partition(".")[0]
        return OmegaConf.select(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create({top: checked[top]}))), key)
    assert message is not None and key in message
    raise UserError(message)


def apply(cfg: DictConfig, override: str) -> None:
    """Set a value as Hydra does."""
    ConfigLoaderImpl._apply_overrides_to_config([OverridesParser.create().parse_override(override)], cfg)


@common
@given(key=st.sampled_from(TEXT_KEYS), text=NAMES)
@example(key="name", text="\\'\\")
def test_text(base: DictConfig, key: str, text: str) -> None:
    try:
        value = value_in(base, f"{key}={text}")
    except UserError:
        assert not text.strip() or "${" in text or "\x85" in text or text == "???", text
        return
    if "${" in text:
        return  # an interpolation
    if text == "null" and key != "paths.logs":  # which has no such value
        assert value is None
        return
    assert value == (os.path.expanduser(text) if text.startswith("~") else text)


@common
@given(key=st.sampled_from(LIST_KEYS), items=st.lists(NAMES, min_size=1, max_size=4))
def test_lists(base: DictConfig, key: str, items: list[str]) -> None:
    """Items without the characters of lists come back as typed, without spaces around them."""
    try:
        value = value_in(base, f"{key}=[{','.join(items)}]")
    except UserError:
        assert any(item.strip() in ("", "???") or set(item) & set("[]{}'\",\\$\x85") for item in items)
        return
    if all(item.strip() for item in items) and not any(set(item) & set("[]{}'\",$") for item in items):
        assert value == [item.strip() for item in items]


@common
@given(key=st.sampled_from(OTHER_KEYS), text=NAMES)
def test_numbers_and_flags(base: DictConfig, key: str, text: str) -> None:
    try:
        value = value_in(base, f"{key}={text}")
    except UserError:
        return
    assert value is None or isinstance(value, bool | int | float | list) or value in ("auto", "none", "memory")


@common
@given(key=st.one_of(st.sampled_from((*TEXT_KEYS, *OTHER_KEYS, "strategy", "heads", "+x.y")), NAMES), text=NAMES)
def test_every_argument_is_read_or_refused(key: str, text: str) -> None:
    """No other error than a UserError, in a sweep and outside."""
    name = key.partition("=")[0]
    for multirun in (False, True):
        for verb in ("train", "predict"):
            try:
                (result,) = prepare(verb, [f"{key}={text}"], multirun)
            except UserError as error:
                result = str(error)
            assert name in result


def test_the_command(tmp_path: Path) -> None:
    """Twenty of the generated values in new processes."""
    values: list[str] = []

    @settings(max_examples=20, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(text=NAMES)
    def generate(text: str) -> None:
        values.append(text)

    generate()
    assert len(values) >= 20
    for i, text in enumerate(values[:20]):
        override = f"{('name', 'data.limit_train')[i % 2]}={text}"
        output = tmp_path / "output.txt"
        code = run_forked(["plan", *SMALL, f"paths.logs={tmp_path}", override], output)
        text = output.read_text()
        assert code in (0, 2) and "Traceback" not in text, (override, text)
        assert code == 0 or text.count("error: ") == 1
