"""Where the study of a sweep is stored: in the journal of its directory, or in a database."""

import os
import re
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna import Study
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage

from visiontune.errors import UserError, first_line
from visiontune.sweeps.study.journal import open_journal
from visiontune.sweeps.study.settings import FILE, Settings

JOURNAL = "study.journal"
NAME = "sweep"  # of the study in a journal
DIRECTORY = "directory"  # attribute of a study in a database: that of its sweep
DRIVERS = {"postgresql": ("psycopg", "psycopg[binary]"), "mysql": ("pymysql", "pymysql")}  # scheme: module, package
VARIABLE = re.compile(r"\$\{oc\.env:(\w+)\}")
EXAMPLE = "'sweep.storage=${oc.env:SWEEP_STORAGE}' with a variable such as postgresql://USER:PASSWORD@HOST/DATABASE"


def name_study(folder: Path, storage: str | None) -> str:
    """A name for the study of a new sweep in `folder`; in a database, which sweeps may share, no other has it."""
    return NAME if storage is None else f"{folder.name}-{secrets.token_hex(8)}"


def typed_storage(sweep: DictConfig) -> str | None:
    """`sweep.storage` as it was written, with the name of a variable instead of its value."""
    values: Any = OmegaConf.to_container(sweep, resolve=False)
    return values["storage"]


def check_storage(folder: Path, storage: str | None, before: Settings | None) -> str | None:
    """The storage of the sweep in `folder`: that of its earlier command, or `storage` for a new sweep.

    Args:
        storage: of `sweep.storage`, not resolved.
        before: the settings of the earlier command.

    Raises:
        UserError: as `open_storage`; the earlier command had another storage; or the address has a password.
    """
    if before is not None:
        if storage is not None and storage != before.storage:
            other = JOURNAL if before.storage is None else hide_password(before.storage)
            raise UserError(
                f"the study of {folder} is in {other}: leave sweep.storage out, or write another sweep_dir=DIR"
            )
        return before.storage
    if storage is not None:
        if hide_password(storage) != storage:
            raise UserError(f"sweep.storage has a password, which sweep.yaml would show: write {EXAMPLE}")
        open_storage(folder, storage)  # its errors come before anything is built
    return storage


def create_study(folder: Path, settings: Settings, *directions: Literal["maximize", "minimize"]) -> None:
    """Create the study of a sweep, unless it exists.

    Args:
        directions: of the objectives.

    Raises:
        UserError: the journal in `folder` has the study of something else; or as `open_storage`.
    """
    storage, name = open_storage(folder, settings.storage), settings.study
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    others = [study.study_name for study in storage.get_all_studies() if study.study_name != name]
    if settings.storage is None and others:
        raise UserError(f"{folder / JOURNAL} has the study {others[0]}, of no sweep: write another sweep_dir=DIR")
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    if settings.storage is not None:
        study.set_user_attr(DIRECTORY, str(folder.resolve()))


def load_study(folder: Path, settings: Settings) -> Study:
    """The study of the sweep in `folder`.

    Raises:
        UserError: the storage has no such study, or it belongs to another directory; or as `open_storage`.
    """
    storage, name = open_storage(folder, settings.storage), settings.study
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        # The sampler is asked for nothing, since `suggest` has drawn all values. The default one takes time.
        study = optuna.load_study(study_name=name, storage=storage, sampler=RandomSampler())
    except KeyError:
        place = JOURNAL if settings.storage is None else "its sweep.storage"
        raise UserError(f"{folder}: {place} has no study {name}: it is of another sweep, or was deleted") from None
    owner = Path(study.user_attrs.get(DIRECTORY, folder))
    if owner != folder and (owner / FILE).is_file():
        raise UserError(f"{folder} is a copy of {owner}, which has the same study: run that one, and delete the copy")
    return study


def open_storage(folder: Path, storage: str | None) -> BaseStorage:
    """The storage of the sweep in `folder`.

    Args:
        storage: the address of a database, or a variable that has it; None is the journal in the folder.

    Raises:
        UserError: the address is wrong, its driver is not installed, or the server does not answer.
    """
    if storage is None:
        return open_journal(folder / JOURNAL)
    url = read_url(storage)
    # These imports take half a second, which workers with a journal do not wait for.
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return get_storage(RDBStorage(url, engine_kwargs={"pool_pre_ping": True}))
    except SQLAlchemyError as error:
        raise UserError(f"sweep.storage={hide_password(url)}: {first_line(error)}") from None


def read_url(storage: str) -> str:
    """The address of a database with the name of its driver.

    Raises:
        UserError: it is of no database that several workers can use, or the driver is not installed.
    """
    url = storage
    if "${" in storage:
        if not (variable := VARIABLE.fullmatch(storage)):
            raise UserError(f"sweep.storage={storage}: expected an address or a variable, as in {EXAMPLE}")
        url = os.environ.get(variable[1], "")
        if not url:
            raise UserError(f"sweep.storage={storage}: set the variable {variable[1]}, as in {EXAMPLE}")
    scheme, separator, rest = url.partition("://")
    name, _, driver = scheme.partition("+")
    if name == "sqlite":
        raise UserError(
            "sweep.storage: several workers would take the same job from an SQLite file; leave it out, which puts the "
            f"study in {JOURNAL} of the sweep's directory, or write {EXAMPLE}"
        )
    if not separator or name not in DRIVERS:
        raise UserError(
            f"sweep.storage={hide_password(url)}: expected null, which is {JOURNAL} in the sweep's directory, or the "
            f"address of a PostgreSQL or MySQL database: {EXAMPLE}"
        )
    module, package = DRIVERS[name]
    if find_spec(driver or module) is None:
        raise UserError(f"sweep.storage={hide_password(url)} needs a driver: pip install '{package}'")
    return f"{name}+{driver or module}://{rest}"


def hide_password(url: str) -> str:
    """An address, whose password is replaced by `***`."""
    return re.sub(r"(?<=password=)[^&]*", "***", re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url))
