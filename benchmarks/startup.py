"""Wall and CPU time of `visiontune --help` and `visiontune plan`, the median of several runs in turn.

python -m benchmarks.startup [--rounds 5] [--against DIR]

`--against` measures another checkout in turn with this one and prints ratios. It leaves docs/benchmarks.md unchanged.
"""

import argparse
from pathlib import Path
from statistics import median

from benchmarks.commands import ROOT, run
from benchmarks.document import machine, markdown, write_block

COMMANDS = (["--help"], ["plan"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    trees = [ROOT, *([options.against.resolve()] if options.against else [])]
    rows = []
    for arguments in COMMANDS:
        rounds = [[run(tree, arguments, OMP_NUM_THREADS="1") for tree in trees] for _ in range(options.rounds)]
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
