"""README.md, docs/ and the comments in configs/ are correct: every command and key is valid, every path exists.

The convention: ```bash blocks hold commands, one per line (`\\` continues it, `#` comments it), and ```text blocks
their output. A ```yaml or ```python block under a line "`PATH`:" is a file, written there before the command runs.
In running text and tables, `visiontune ...`, `KEY=VALUE`, `make TARGET` and paths stand in backticks. In comments of
configs/ a command or `KEY=VALUE` stands in backticks, after two spaces, or on a line of its own. Capitals are
placeholders: DIR, PHOTOS, logs/digits/RUN.
"""

import re
import shlex
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Sweep
from omegaconf import DictConfig
from running import SMALL, TINY, Command
from safetensors.torch import save_file

from visiontune.cli import VERBS
from visiontune.config.compose import config_dir, initialized

ROOT = config_dir().parent
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]
YAMLS = sorted(path for path in config_dir().rglob("*.yaml") if path.parent.name != "local")
FLAGS = {"-m", "--multirun", "--cfg", "--info", "--help", "--config-dir"}
FLAGS_WITH_VALUE = {"--cfg", "--info", "--config-dir"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.M | re.S)


def lines(page: Path) -> list[list[str]]:
    """The words of each line of the ```bash blocks, comments left out; `$(...)` counts as a line."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    text = re.sub(r'"\$\((.*?)\)"', r"\n\1", text)
    commands = [shlex.split(part, comments=True) for line in text.splitlines() for part in re.split(r" && | \| ", line)]
    return [words for words in commands if words]


def inline(page: Path) -> list[str]:
    """The texts in backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S))


def split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # prose with an apostrophe
        return []


def commands() -> list[Any]:
    """The command lines of pages and YAML comments, each once, as parameters; those of README.md are quick."""
    places: dict[tuple[str, ...], str] = {}
    for page in PAGES:
        for words in [*lines(page), *(split(text) for text in inline(page) if "..." not in text)]:
            if words[:1] == ["visiontune"]:
                places.setdefault(tuple(words[1:]), name(page))
    for path in YAMLS:
        for part in comments(path):
            words = split(part)
            if words[:1] == ["visiontune"]:
                places.setdefault(tuple(words[1:]), name(path))
            elif words[:2] == ["train", "-m"]:
                places.setdefault(tuple(words), name(path))
    return [
        pytest.param(words, id=f"{place}: {' '.join(words)}", marks=() if place == "README.md" else pytest.mark.slow)
        for words, place in places.items()
        if words
    ]


def comments(path: Path) -> list[str]:
    """The parts of a YAML's comments that may be commands or overrides."""
    parts = []
    for line in path.read_text().splitlines():
        _, mark, text = line.partition("#")
        if mark and "..." not in text:
            parts += [*re.findall(r"`([^`]+)`", text), *re.split(r"  +", re.sub(r"`[^`]+`", "", text).rstrip())]
    return parts


# ---- the keys that exist


@cache
def keys() -> frozenset[str]:
    """Every key that some composition of the configs has, every group, and the options as `GROUP=OPTION`."""
    known = set()

    def walk(prefix: str, value: Any) -> None:
        known.add(prefix)
        for key, inner in value.items() if isinstance(value, dict) else ():
            if key != "defaults":
                walk(f"{prefix}.{key}" if prefix else str(key), inner)

    for path in YAMLS:
        content = yaml.safe_load(path.read_text()) or {}
        top = path.parent == config_dir()
        walk("" if top or "@package _global_" in path.read_text() else path.parent.name, content)
        if not top:
            known |= {path.parent.name, f"{path.parent.name}={path.stem}"}
    return frozenset(known | {"debug=true"})


@cache
def composed(config: str, choices: tuple[str, ...] = ()) -> DictConfig:
    with initialized(None):
        return compose(config, overrides=list(choices))


def check_overrides(config: str, overrides: list[str]) -> None:
    """Compose as Hydra does, but only once for the same choices of groups."""
    by_group: dict[bool, list[str]] = {True: [], False: []}
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        by_group[(config_dir() / key).is_dir()].append(override)
    cfg = deepcopy(composed(config, tuple(by_group[True])))
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(by_group[False]), cfg)


def variants(override: Override) -> list[str]:
    """One override for each value of a sweep."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    value = override.value()
    if isinstance(value, Glob):
        names = [path.stem for path in (config_dir() / override.key_or_group).glob("*.yaml")]
        return [f"{override.get_key_element()}={name}" for name in value.filter(names)]
    assert isinstance(value, Sweep)
    if not override.is_discrete_sweep():  # an interval, for a search
        return [f"{override.get_key_element()}={value.start}"]  # type: ignore[attr-defined]
    return [f"{override.get_key_element()}={text}" for text in override.sweep_string_iterator()]


def check_command(words: tuple[str, ...]) -> None:
    """Check the verb and its options, and compose its overrides, with every value of a sweep once."""
    verb, *rest = words
    if verb == "-sc":
        assert re.fullmatch(r"(un)?install=(bash|zsh|fish)", *rest)
        return
    if verb in ("--help", "--version"):
        assert rest == []
        return
    assert verb in VERBS, f"there is no verb {verb}"
    if verb in ("compare", "work"):
        options = (
            {"--csv", "--markdown", "--baseline", "--test", "--test-again"}
            if verb == "compare"
            else {"--workers", "--allow-changed"}
        )
        assert {word for word in rest if word.startswith("-")} <= options
        return
    overrides = []
    remaining = iter(rest)
    user_files = False
    for word in remaining:
        if word.startswith("-"):
            assert word in FLAGS
            assert word not in ("-m", "--multirun") or verb == "train"
            user_files |= word == "--config-dir"
            if word in FLAGS_WITH_VALUE:
                assert next(remaining, "")
        else:
            word = "debug=traceback" if word == "debug=true" and verb in ("train", "plan") else word
            overrides.append(word.replace("=~/", "=/home/"))  # as the command expands it
    if user_files:
        return  # the reader's files; test_the_example_of_user_files runs it
    parsed = OverridesParser.create().parse_overrides(overrides)
    # A launcher or a sweeper is a plugin that may not be installed.
    options = [variants(override) for override in parsed if not override.key_or_group.startswith(("hydra/", "hydra."))]
    assert all(len(values) == 1 for values in options) or {"-m", "--multirun"} & set(rest), "a sweep needs -m"
    for number in range(max((len(values) for values in options), default=1)):
        check_overrides("train" if verb == "plan" else verb, [v[min(number, len(v) - 1)] for v in options])


def check_override(text: str) -> None:
    """Check that the key of `KEY=VALUE`, or the option of `GROUP=OPTION`, exists."""
    key, _, value = text.lstrip("+~").partition("=")
    group = f"{key}={value}" if (config_dir() / key).is_dir() and key != "hydra" else ""
    if key.startswith(("hydra/", "hydra.")) or "NAME" in key:
        return
    assert key in keys() or (text[0] == "+" and key.rpartition(".")[0] in keys()), f"there is no key {key}"
    for option in value.strip("[]").split(",") if group and value and not value.isupper() else ():
        assert f"{key}={option}" in keys(), f"there is no {key}={option}"


OVERRIDE = re.compile(r"[+~]?[a-z][\w./]*=(?!True|False)[^=]*")


def overrides_in(text: str) -> Iterator[str]:
    """The overrides at the beginning of a text; none if it is a command or prose."""
    for word in split(text):
        if not OVERRIDE.fullmatch(word):
            return
        yield word.rstrip(",:")


# ---- the tests


@pytest.mark.parametrize("words", commands())
def test_commands_compose(words: tuple[str, ...]) -> None:
    check_command(words)


@pytest.mark.parametrize("path", [*PAGES, *YAMLS], ids=name)
def test_keys_exist(path: Path) -> None:
    parts = inline(path) if path.suffix == ".md" else comments(path)
    for part in parts:
        for override in overrides_in(part):
            check_override(override)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_targets_and_paths_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    spoken = [text.split() for text in inline(page)]
    for words in [*lines(page), *spoken]:
        if words[:1] == ["make"]:
            assert words[1] in targets, words
    for text in inline(page):
        path, _, place = text.partition("::")
        if re.match(r"(src|configs|docs|tests|benchmarks|scripts)/", path) and not path.startswith("configs/local"):
            assert (ROOT / path).exists(), path
            assert not place or f"def {place}(" in (ROOT / path).read_text(), text
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_lengths() -> None:
    longest = {"README.md": 200, "docs/architecture.md": 130, "docs/configuration.md": 250, "docs/tasks.md": 90}
    for page, most in longest.items():
        assert len((ROOT / page).read_text().splitlines()) <= most, page


def test_every_group_and_option_is_in_the_table() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.M))
    for path in YAMLS:
        group, option = path.parent.name, path.stem
        shared = option in {
            "data": ("common",),
            "backbone": ("base",),
            "pretrained": ("base", "coco80", "coco91", "eomt"),
        }.get(group, ())
        if path.parent == config_dir() or group == "hydra" or shared:
            continue
        assert f"`{option}`" in rows[group], f"{group}={option}"
    chosen = {key: value for part in yaml.safe_load((config_dir() / "train.yaml").read_text())["defaults"][1:]
              for key, value in part.items()}  # fmt: skip
    for group in set(rows) & set(chosen):
        first = re.match(r"`(\w+)`", rows[group])
        default = chosen[group][0] if isinstance(chosen[group], list) else chosen[group]
        assert (first[1] if first else None) == default, group


def test_defaults_in_the_table() -> None:
    """A default in the table of keys that is one word is that of the config."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    _, _, table = text.partition("## Keys that people use most")
    rows = re.findall(r"^\| `([\w.]+)` \| ([\w-]+)(?: \(|;| \|)", table.partition("\n## ")[0], re.M)
    cfg = composed("train", ("data=image_folder",))
    defaults = {key: value for key, value in rows if key in keys()}
    assert len(defaults) >= 8
    for key, value in defaults.items():
        if value not in ("by", "the"):
            node = cfg
            for part in key.split("."):
                node = node[part]
            assert str(node).lower() == str(yaml.safe_load(value)).lower() or float(node) == float(value), key


def first(verb: str) -> list[str]:
    """The arguments of the first such command in README.md that sets no data, network or run; else only the verb."""
    for words in lines(ROOT / "README.md"):
        if words[:2] == ["visiontune", verb] and not any(
            re.match(r"(data|backbone|run|experiment|-)", w) for w in words[2:]
        ):
            return words[1:]
    return [verb]


def test_a_command_of_the_readme_trains(command: Command) -> None:
    outcome = command(*first("train"), *TINY)
    assert outcome.run.read_status()["status"] == "finished"


def test_a_plan_of_the_documents(command: Command) -> None:
    words = next(words for page in PAGES for words in lines(page) if words[:2] == ["visiontune", "plan"])
    chosen = [word for word in words[2:] if not word.startswith(("data", "backbone"))]
    outcome = command("plan", *chosen, *SMALL)
    assert outcome.code == 0 and "run directory: " in outcome.out


def test_the_example_of_user_files(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/configuration.md runs, with weights that fit its network."""
    page = ROOT / "docs" / "configuration.md"
    files = re.findall(r"^`([^`\n]+)`:\n```(?:yaml|python)\n(.*?)^```", page.read_text(), re.M | re.S)
    for path, content in files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    backbone = yaml.safe_load((tmp_path / "mine" / "backbone" / "ours.yaml").read_text())
    (tmp_path / "weights").mkdir()
    save_file(timm.create_model(backbone["name"]).state_dict(), tmp_path / backbone["weights"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (words,) = [words for words in lines(page) if "--config-dir" in words]
    outcome = command(*words[1:], "trainer.max_epochs=4", "trainer=cpu")
    assert outcome.code == 0, outcome.err
    assert "100.0% of the parameters loaded" in outcome.out
    rows = {row[0]: row[2] for row in map(str.split, outcome.out.splitlines()) if len(row) > 2}
    assert rows["heads"] == "1-4" and set(rows.values()) >= {"3-4"}
    assert outcome.out.splitlines()[-1].split()[-1].endswith("birds/TIME-ID")
