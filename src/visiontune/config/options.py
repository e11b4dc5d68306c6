"""The options of a command line, such as `-m` and `--config-dir`, apart from its overrides."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser

from visiontune.errors import UserError


@dataclass(frozen=True)
class Options:
    """The options of one command.

    Attributes:
        arguments: the options as typed, without `-m`.
        multirun: whether the command is a sweep.
        config_dir: the user's folder of configs.
        prints: whether the command only prints help or a config.
    """

    arguments: list[str]
    multirun: bool = False
    config_dir: Path | None = None
    prints: bool = False


def split_options(verb: str, arguments: list[str]) -> tuple[Options, list[str]]:
    """Separate options from overrides, which may stand in any order.

    Raises:
        UserError: an option is unknown or lacks its value, or two options exclude each other.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; `visiontune {verb} --help` prints what may be set")

    parser.error = refuse  # type: ignore[method-assign]
    values = {name: action.nargs for action in parser._actions if action.nargs != 0 for name in action.option_strings}
    options, overrides = [], []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        options.append(argument)
        is_optional = values.get(argument) == "?"
        if argument in values and remaining and not (is_optional and "=" in remaining[0]):
            options.append(remaining.pop(0))
    parsed = parser.parse_args(options)
    if parsed.overrides:
        refuse(f"unrecognized arguments: {' '.join(parsed.overrides)}")
    return _read(parsed, options, refuse), overrides


def _read(parsed: argparse.Namespace, options: list[str], refuse: Any) -> Options:
    modes = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(parsed, name)]
    if len(modes) > 1:
        refuse(f"expected one of {' and '.join(f'--{name}' for name in modes)}, not both")
    if parsed.resolve and not (parsed.cfg or parsed.help):
        refuse("--resolve needs --cfg job")
    if parsed.experimental_rerun is not None:
        refuse("--experimental-rerun is not supported")
    if parsed.config_dir is not None and not Path(parsed.config_dir).is_dir():
        refuse(f"--config-dir {parsed.config_dir}: there is no such folder")
    return Options(
        [
            option
            for option in options
            if option != "-m" and not (option[2:3] == "m" and "--multirun".startswith(option))
        ],
        multirun=parsed.multirun,
        config_dir=parsed.config_dir and Path(parsed.config_dir).absolute(),
        prints=bool(parsed.help or parsed.hydra_help or parsed.cfg or parsed.info),
    )
