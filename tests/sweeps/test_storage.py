"""The storage of a study: the journal, or a database that several workers can use."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from running import TINY, Command
from test_study import SETTINGS, jobs

from visiontune.errors import UserError
from visiontune.sweeps.study import storage
from visiontune.sweeps.study.journal import open_journal
from visiontune.sweeps.study.sweep import Sweep

SECRET = "postgresql://me:secret@host/db"


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("sqlite:///x.db", "sweep.storage: several workers would take the same job from an SQLite file; leave it out"),
        ("redis://host", "sweep.storage=redis://host: expected null, which is study.journal"),
        ("study.db", "sweep.storage=study.db: expected null, which is study.journal"),
        ("postgresql://${oc.env:SECRET}@host/db", "sweep.storage=postgresql://${oc.env:SECRET}@host/db: expected an"),
        ("${oc.env:UNSET_STORAGE}", "sweep.storage=${oc.env:UNSET_STORAGE}: set the variable UNSET_STORAGE, as in "),
        (SECRET, "sweep.storage=postgresql://me:***@host/db needs a driver: pip install 'psycopg[binary]'"),
        ("mysql+other://host/db", "sweep.storage=mysql+other://host/db needs a driver: pip install 'pymysql'"),
    ],
)
def test_other_storages_are_refused(no_driver: None, typed: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        storage.read_url(typed)
    assert str(error.value).startswith(message)


def test_the_address_names_a_driver_and_may_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "find_spec", lambda name: True)
    monkeypatch.setenv("SWEEP_STORAGE", SECRET)
    assert storage.read_url("${oc.env:SWEEP_STORAGE}") == "postgresql+psycopg://me:secret@host/db"
    assert storage.read_url("mysql://host/db") == "mysql+pymysql://host/db"
    assert storage.read_url("postgresql+pg8000://host/db") == "postgresql+pg8000://host/db"


def test_a_password_stays_out_of_the_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage, "open_storage", lambda folder, address: None)
    monkeypatch.setenv("SWEEP_STORAGE", SECRET)
    with pytest.raises(UserError, match=r"has a password, which sweep.yaml would show"):
        storage.check_storage(tmp_path, SECRET, None)
    assert storage.hide_password("mysql://host/db?user=me&password=a&b=c") == "mysql://host/db?user=me&password=***&b=c"
    variable = storage.check_storage(tmp_path, "${oc.env:SWEEP_STORAGE}", None)
    names = {storage.name_study(tmp_path, variable) for _ in range(2)}
    assert len(names) == 2 and all(name.startswith(f"{tmp_path.name}-") for name in names)
    settings = replace(SETTINGS, storage=variable, study=names.pop())
    settings.write(tmp_path)
    assert "secret" not in (tmp_path / "sweep.yaml").read_text()
    assert type(settings).read(tmp_path) == settings
    assert storage.check_storage(tmp_path, None, settings) == variable
    with pytest.raises(UserError, match=r"is in \$\{oc.env:SWEEP_STORAGE\}: leave sweep.storage out"):
        storage.check_storage(tmp_path, "postgresql://host/db", settings)
    with pytest.raises(UserError, match=r"is in study.journal: leave sweep.storage out"):
        storage.check_storage(tmp_path, variable, SETTINGS)


def test_the_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    optuna.create_study(storage=open_journal(tmp_path / "study.journal"), study_name="mine")
    with pytest.raises(UserError, match=r"study.journal has the study mine, of no sweep: write another sweep_dir=DIR"):
        Sweep.create(tmp_path, SETTINGS, "maximize")
    SETTINGS.write(tmp_path)
    with pytest.raises(UserError, match=r"study.journal has no study sweep: it is of another sweep, or was deleted"):
        Sweep(tmp_path)


def test_a_copy_of_a_sweep_in_a_database_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    database = optuna.storages.InMemoryStorage()
    monkeypatch.setattr(storage, "open_storage", lambda folder, address: database)
    settings, first, copy = replace(SETTINGS, storage="postgresql://host/db", study="a"), tmp_path / "1", tmp_path / "2"
    first.mkdir()
    assert Sweep.create(first, settings, "maximize").add(jobs(0, 1)) == 2
    first.rename(copy)
    assert len(Sweep(copy).trials()) == 2, "it has moved"
    first.mkdir()
    settings.write(first)
    with pytest.raises(UserError, match=f"{copy} is a copy of {first}, which has the same study: run that one"):
        Sweep(copy)


def test_a_wrong_storage_starts_nothing(command: Command, tmp_path: Path) -> None:
    arguments = [*TINY, "seed=0,1", f"sweep_dir={tmp_path / 'sweep'}"]
    message = command("train", "-m", *arguments, "sweep.storage=sqlite:///study.db").message
    assert message.startswith("sweep.storage: several workers would take the same job from an SQLite file")
    assert list(tmp_path.iterdir()) == []
