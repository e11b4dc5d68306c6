"""Every benchmark can be imported, and the text of every mutation still exists."""

from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.mutation_list import MUTATIONS
from benchmarks.mutations import ROOT, find_path, mutate

NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_imports(name: str) -> None:
    import_module(f"benchmarks.{name}")


def test_mutations_apply_and_name_tests_that_exist() -> None:
    assert len(MUTATIONS) == len({mutation.name for mutation in MUTATIONS}) >= 30
    for mutation in MUTATIONS:
        path, mutated = mutate(ROOT, mutation)
        compile(mutated, str(path), "exec")
        assert mutated != path.read_text() and all(find_path(ROOT, test) for test in mutation.tests)


def test_a_missing_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / MUTATIONS[0].file).parent.mkdir(parents=True)
    (tmp_path / MUTATIONS[0].file).write_text("")
    with pytest.raises(SystemExit, match=f"{MUTATIONS[0].name}: .* has 0 times"):
        mutate(tmp_path, MUTATIONS[0])
