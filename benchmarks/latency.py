"""Time an image of every pretrained model on one CPU thread, beside its parameters, published score and licence.

python -m benchmarks.latency [NAME ...] [--rounds 3]

Each model is built from its file in configs/pretrained/, at the input size of that file, with random weights: no
download. An image is a random one; the time is the CPU time of network and decoding, the median over the rounds after
two calls that do not count. Random weights find no objects, so the time of the masks of objects is not in it (a few
milliseconds an object). Without names, the table in docs/pretrained.md is written.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.document import DOCS, machine, markdown, write_block
from visiontune.compression.timing import time_alternately
from visiontune.config.check import check
from visiontune.config.compose import config_dir, train_config
from visiontune.data.frames import Frame
from visiontune.data.loaders import as_size, to_network
from visiontune.data.schema import TaskInfo
from visiontune.training.build import build_finetuner

PAGE = DOCS / "pretrained.md"
CLASSES = 80


def read_tasks() -> dict[str, str]:
    """The task of each option of `pretrained`, in alphabetical order; files that others include have no name."""
    folder = config_dir() / "pretrained"
    settings = {file.stem: _read_settings(folder / file.name) for file in sorted(folder.glob("*.yaml"))}
    return {name: keys["task"] for name, keys in settings.items() if keys.get("name", "???") != "???"}


def _read_settings(file: Path) -> dict[str, Any]:
    """The keys of `pretrained` in a file and in those that it includes."""
    content = yaml.safe_load(file.read_text())
    settings: dict[str, Any] = {}
    for name in content.get("defaults", []):
        if name != "_self_":
            settings |= _read_settings(file.with_name(f"{name}.yaml"))
    return settings | (content.get("pretrained") or {})


def measure(name: str, task: str, rounds: int) -> list[str]:
    """A row of the table."""
    cfg = check("train", train_config([f"heads={task}", f"pretrained={name}", "pretrained.weights=null"]))
    schema = {task: TaskInfo(task, [f"class {i}" for i in range(CLASSES)])}
    model, _ = build_finetuner(cfg, schema, epochs=1, load=False)
    model.eval()
    height, width = as_size(cfg.data.image_size)
    image = torch.randint(256, (1, 3, height, width), dtype=torch.uint8)

    def predict() -> None:
        raw = model(to_network({"image": image})["image"])[task]
        model.heads[task].decode(raw, [Frame.whole(height, width)])

    with torch.inference_mode():
        timing = time_alternately({name: predict}, rounds, clock=time.process_time)[name]
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    settings = cfg.pretrained
    score, licence = settings.score.split(" on ")[0], settings.license.split(" (")[0].split(",")[0]
    time_ms = f"{1000 * timing.seconds:.0f}"
    return [f"`{name}`", task, f"{height} x {width}", f"{parameters:.1f}", time_ms, score, licence]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    tasks = read_tasks()
    for name in options.names or tasks:
        rows.append(measure(name, tasks[name], options.rounds))
        print(*rows[-1], sep="  ", flush=True)
    columns = ["`pretrained=`", "task", "input", "million parameters", "ms an image", "published score", "licence"]
    rows.sort(key=lambda row: (row[1], int(row[4])))
    if not options.names:
        write_block("latency", f"{machine()}; {options.rounds} rounds.\n\n{markdown(columns, rows)}", PAGE)


if __name__ == "__main__":
    main()
