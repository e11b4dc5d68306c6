"""Check that the tests find bugs: break the code of one law at a time in a copy, and run the tests of that law.

python -m benchmarks.mutations [--only NAME ...] [--seed 0 --count 30] [--tree DIR] [--check]

Each mutation of benchmarks/mutation_list.py is applied to a fresh copy; `survived` means that no test failed. The
exit code is 1 if one survived. `--tree` names another checkout, which may be older than the current layout.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.mutation_list import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[1]
# Paths in the older layout: (new, old), tried in this order if the new path does not exist.
OLD_PLACES = [
    ("src/visiontune/models/heads/", "src/visiontune/heads/"),
    ("src/visiontune/models/split_metrics.py", "src/visiontune/scores.py"),
    ("src/visiontune/models/step_seed.py", "src/visiontune/finetuner.py"),
    ("src/visiontune/callbacks/accumulation.py", "src/visiontune/finetuner.py"),
    ("src/visiontune/training/resolve.py", "src/visiontune/train.py"),
    ("src/visiontune/models/", "src/visiontune/"),
    ("src/visiontune/optim/", "src/visiontune/"),
    ("src/visiontune/strategies/freezing.py", "src/visiontune/freezing.py"),
    ("src/visiontune/training/", "src/visiontune/runs/"),
    ("tests/models/heads/", "tests/heads/"),
    ("tests/models/", "tests/"),
    ("tests/optim/", "tests/"),
    ("tests/strategies/test_freezing.py", "tests/test_freezing.py"),
    ("tests/training/test_resolve.py", "tests/end_to_end/test_sweep.py"),
    ("tests/training/", "tests/runs/"),
]


def find_path(tree: Path, name: str) -> Path:
    """The file in the tree, at its current path or its older one."""
    names = [name, *(name.replace(new, old) for new, old in OLD_PLACES if name.startswith(new))]
    for candidate in names:
        if (tree / candidate).is_file():
            return tree / candidate
    sys.exit(f"{tree} has none of {', '.join(names)}: correct benchmarks/mutation_list.py")


def mutate(tree: Path, mutation: Mutation) -> tuple[Path, str]:
    """The file that changes, and its new content; exit with a message if no text occurs exactly once."""
    path = find_path(tree, mutation.file)
    source = path.read_text()
    unique = [change for change in mutation.changes if source.count(change[0]) == 1]
    if not unique:
        counts = ", ".join(f"{source.count(text)} times {text!r}" for text, _ in mutation.changes)
        sys.exit(f"{mutation.name}: {path} has {counts}; expected once: correct benchmarks/mutation_list.py")
    return path, source.replace(*unique[0])


def tests_fail(tree: Path, names: tuple[str, ...]) -> bool:
    """Whether a test of these files fails; exit with a message if pytest itself fails."""
    tests = [str(find_path(tree, name).relative_to(tree)) for name in names]
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if result.returncode not in (0, 1):
        sys.exit(
            f"pytest {' '.join(tests)} ended with {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
        )
    return result.returncode == 1


def is_caught(tree: Path, mutation: Mutation) -> bool:
    """Whether a test fails after the mutation; the tree is as before afterwards."""
    path, mutated = mutate(tree, mutation)
    source = path.read_text()
    path.write_text(mutated)
    try:
        return tests_fail(tree, mutation.tests)
    finally:
        path.write_text(source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutations")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--count", type=int, help="size of a random sample; all without it")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to break a copy of")
    parser.add_argument("--check", action="store_true", help="only test that each text occurs once")
    options = parser.parse_args()
    mutations = [m for m in MUTATIONS if options.only is None or m.name in options.only]
    if options.count is not None:
        mutations = random.Random(options.seed).sample(mutations, min(options.count, len(mutations)))
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(
            options.tree, copy, ignore=shutil.ignore_patterns(".git", ".venv", "logs", ".*_cache"), symlinks=True
        )
        # Tests that fail without a mutation would catch everything.
        for names in [] if options.check else sorted({mutation.tests for mutation in mutations}):
            if tests_fail(copy, names):
                sys.exit(f"{', '.join(names)} fail without a mutation")
        for mutation in mutations:
            if options.check:
                mutate(copy, mutation)
                continue
            caught = is_caught(copy, mutation)
            survivors += [] if caught else [mutation.name]
            print(f"law {mutation.law:>2}  {'caught  ' if caught else 'SURVIVED'}  {mutation.name}", flush=True)
    if options.check:
        print(f"{len(mutations)} mutations apply to {options.tree}")
    else:
        print(f"{len(mutations) - len(survivors)} of {len(mutations)} mutations caught")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
