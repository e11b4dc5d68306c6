"""Wall and CPU time of `visiontune --help` and `visiontune plan`, the median of several runs in turn.

python -m benchmarks.startup [--rounds 5] [--against DIR]

`--against` measures another checkout in turn with this one and prints ratios. It leaves docs/benchmarks.md unchanged.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.document import machine, markdown, write_block

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (["--help"], ["plan"])


def run(tree: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds of wall and CPU time of one command with the sources of `tree`."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "visiontune", *arguments], env=environment, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    trees = [ROOT, *([options.against.resolve()] if options.against else [])]
    rows = []
    for arguments in COMMANDS:
        rounds = [[run(tree, arguments) for tree in trees] for _ in range(options.rounds)]
        for i, tree in enumerate(trees):
            wall, cpu = (median(times[i][kind] for times in rounds) for kind in (0, 1))
            ratio = median(times[0][1] / times[i][1] for times in rounds)
            name = f"`visiontune {' '.join(arguments)}`" + f" in {tree}" * (i > 0)
            rows.append([name, f"{wall:.2f} s", f"{cpu:.2f} s", *([f"{ratio:.2f}"] if options.against else [])])
    columns = ["command", "wall time", "CPU time", *(["CPU time of this checkout / that"] if options.against else [])]
    text = f"{machine()}; {options.rounds} rounds.\n\n{markdown(columns, rows)}"
    print(text)
    if not options.against:
        write_block("startup", text)


if __name__ == "__main__":
    main()
