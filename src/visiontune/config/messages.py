"""Explain an error in a config with one message: the key, and what to write instead."""

import errno
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from visiontune.config.check import describe_key
from visiontune.config.compose import config_dir, initialized
from visiontune.errors import RunError, UserError, causes, explain_write, failed_write, first_line, one_line
from visiontune.signals import Interrupted


def explain(error: BaseException, verb: str, overrides: list[str], config_dir: Path) -> str | None:
    """The message for an error in the config or the data; None for other errors."""
    chain = causes(error)
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
    for link in chain:
        if isinstance(link, MissingConfigException) and "/" in (link.missing_cfg_file or ""):
            return _unknown_option(str(link.missing_cfg_file), link.options or [], config_dir)
    for link in chain:
        if isinstance(link, MissingMandatoryValue):
            key = re.search(r"full_key: (\S+)", str(link))
            name = key.group(1) if key else str(link)
            return f"{verb} needs a value for {name}: write {name}=VALUE"
        if isinstance(link, ConfigAttributeError | ConfigKeyError) and str(link).startswith("Missing key "):
            return f"{verb} needs the key {link.full_key}, which the config lacks"
        if isinstance(link, InterpolationResolutionError):
            where = link.full_key or next((override for override in overrides if "${" in override), "the config")
            return f"{where}: {first_line(link)}"
        if match := re.search(r"full_key: hydra\.runtime\.choices\.(\w+)", str(link)):
            return f"{match[1]} takes one option, not a list; write {match[1]}=OPTION"
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # from Path.expanduser
        where = next((override for override in overrides if "=~" in override), "~")
        return f"{where}: there is no such user; write ./ before the ~ for a folder whose name begins with it"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        keys = [
            key for key, _, value in (o.partition("=") for o in overrides) if value and value in str(error.filename)
        ]
        if keys:
            name = one_line(str(error.filename), 100)
            return f"{keys[-1]}: the path {name} is too long: write {keys[-1]}= with a shorter one"
    if isinstance(error, HydraException | OmegaConfBaseException):
        text = "\n".join(dict.fromkeys(str(link).strip() for link in chain if str(link).strip()))
        return _wrong_kind(text, verb) or _unknown_key(text, verb, overrides, config_dir) or text
    return None


def raise_interruption(error: Exception) -> None:
    """Raise the `Interrupted` that an error has replaced.

    A signal may come while a library changes its state. The library's cleanup then fails, with an error that says
    nothing about the user's config. A `UserError`, a `RunError` and a failed write are reported as they are.

    Raises:
        Interrupted: it is among the causes of the error.
    """
    if isinstance(error, UserError | RunError) or failed_write(error):
        return
    for link in causes(error):
        if isinstance(link, Interrupted):
            raise link


def describe_error(error: Exception, verb: str, overrides: list[str]) -> tuple[str, int]:
    """The message for an error of a command, and the exit code: 2 if the config or the data is wrong, else 1."""
    if message := explain(error, verb, overrides, config_dir()):
        return message, 2
    if isinstance(error, RunError):
        return str(error), 1
    if cause := failed_write(error):
        return explain_write(cause), 1
    return f"{type(error).__name__}: {error} (debug=true shows where)", 1


def _wrong_kind(text: str, verb: str) -> str | None:
    """The message for a list or value in place of a mapping, or for a group without an option."""
    if match := re.search(r"You must specify '(\S+)', e.g.*?options:\s+(.*)", text, re.DOTALL):
        return f"{verb} needs a value for {match[1]}: write {match[1]}= one of {', '.join(match[2].split())}"
    if (match := re.match(r"Error merging override (\S+?)=(.*)", text)) and "Could not" not in text:
        expected, example = describe_key("train" if verb == "plan" else verb, match[1].lstrip("+"))
        return f"{match[1]}={match[2]}: expected {expected}; write {match[1]}={example}"
    return None


def _unknown_option(path: str, options: Sequence[str], config_dir: Path) -> str:
    """The message for an unknown option of a group, `GROUP/OPTION`, with the options that exist."""
    match = re.fullmatch(r"(hydra/\w+|\w+)/(.*)", path, re.DOTALL)
    group, option = match.groups() if match else ("", path)
    options = options or sorted(file.stem for file in (config_dir / group).glob("*.yaml"))  # none in a list of options
    if "," in option:
        near, several = "", f"; several options are a list, {group}=[{option}], or a sweep, which needs -m"
    else:
        similar = [name for name in options if option and option in name] or get_close_matches(
            option, options, cutoff=0.8
        )
        near, several = f"near it: {', '.join(similar[:3])}; " if similar else "", ""
    return f"{group}={option}: unknown option; {near}write {group}= one of {', '.join(options)}{several}"


def _unknown_key(text: str, verb: str, overrides: list[str], config_dir: Path) -> str | None:
    """The message for an unknown key, with the most similar known keys."""
    match = re.search(r"Could not override '([^']+)'", text)
    if match is None:
        return None
    inner = re.search(r"Key '([^']+)' is not in struct\s+full_key: (\S+)", text)
    key = inner[2] if inner and inner[2].endswith(f".{inner[1]}") else match[1]
    parent, _, leaf = key.rpartition(".")
    known = _keys(verb, [o for o in overrides if _is_group_choice(o, config_dir)], parent)
    if not known and key.replace(".", "_") in _keys(verb, [], ""):
        return f"unknown config key {key!r}; near it: {key.replace('.', '_')}"
    if not known:
        package = "hydra" if key.startswith("hydra.") else "job"
        add = f" (to add a new key, write +{key}=VALUE)"
        return f"unknown config key {key!r}: `visiontune {verb} --cfg {package}` prints all keys{add}"
    similar = get_close_matches(leaf, known, n=len(known), cutoff=0.0)
    # An abbreviation has few letters of the full word (lr, learning_rate), so compare the initials as well.
    initials = "".join(part[0] for part in leaf.split("_") if part)
    similar.sort(key=lambda name: name != initials)
    names = ", ".join(f"{parent}.{name}" if parent else name for name in similar[:8])
    return f"unknown config key {key!r}; near it: {names} (to add a new key, write +{key}=VALUE)"


def _is_group_choice(override: str, config_dir: Path) -> bool:
    """Whether an override chooses an option of a config group, such as `optimizer=sgd`."""
    key = override.split("=")[0].lstrip("+~")
    return "=" in override and "," not in override and (config_dir / key.split("@")[0]).is_dir()


def _keys(verb: str, choices: list[str], parent: str) -> list[str]:
    """The keys below `parent` in the config of a verb; empty if there is no such mapping."""
    from hydra import compose

    with initialized(None):
        try:
            cfg = compose("train" if verb == "plan" else verb, overrides=choices)
            node = OmegaConf.select(cfg, parent) if parent else cfg
        except (HydraException, OmegaConfBaseException):
            return []
    return [str(key) for key in node] if isinstance(node, DictConfig) else []
