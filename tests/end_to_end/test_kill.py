"""A `visiontune train` that gets SIGKILL at any moment and is resumed with `run=` equals an uninterrupted run."""

import random
from pathlib import Path

import pytest
from alike import check_results, check_training
from killing import run_killed
from running import FEW, TINY, Command

from visiontune.runs import RunDirectory

EPOCHS, STEPS = 4, 4  # batches of 16 images
BASE = [
    *(override for override in TINY if override not in ("logger=none", "data.num_workers=0")),
    FEW,
    f"trainer.max_epochs={EPOCHS}",
    "data.batch_size=16",
    "trainer.log_every_n_steps=1",
    "augment=mixup",
    "augment.flip=false",
    "probe=true",
    "optimizer.lr=0.01",
]
SETTINGS = [
    # Stages unfreeze in the second and third epoch; checkpoints before every batch, also within accumulation windows.
    "data.num_workers=0 strategy=gradual_unfreeze trainer.accumulate_grad_batches=3 checkpoints.every_minutes=1e-6",
    # Everything unfreezes in the third epoch; the weights are averaged.
    "data.num_workers=0 strategy=lp_ft strategy.probe_epochs=0.5 checkpoints.every_steps=3",
    # Checkpoints only after validations.
    "data.num_workers=2 strategy=full scheduler=plateau trainer.accumulate_grad_batches=2 optimizer=sgd",
]
# Moment of the kill -> how often it occurs at least, in every setting.
OFTEN = {
    "probe": 1,
    "epoch": EPOCHS,
    "batch": EPOCHS * STEPS,
    "backward": EPOCHS * STEPS,
    "step": EPOCHS * 2,
    "validation": (1 + EPOCHS) * 4,
    "row": 1 + EPOCHS,
    "saving": 1 + EPOCHS,
    "renaming": 1 + EPOCHS,
    "report": 1,
}
draw = random.Random(20)
KILLS = [(moment, draw.randint(1, OFTEN[moment]), number % 3) for number, moment in enumerate([*OFTEN, *OFTEN])]
# Within accumulation windows.
KILLS_WITHIN_WINDOWS = [("saving", draw.randint(6, 16), 0), ("renaming", draw.randint(6, 12), 0)]


@pytest.fixture(scope="module")
def uninterrupted(command: Command, tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    """An uninterrupted run of each setting."""
    folder = tmp_path_factory.mktemp("whole")
    return [command("train", *BASE, *more.split(), f"run_dir={folder / str(i)}").run for i, more in enumerate(SETTINGS)]


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "count", "setting"), [*KILLS[1:-1], *KILLS_WITHIN_WINDOWS])
def test_a_killed_run_resumes_exactly(
    moment: str, count: int, setting: int, uninterrupted: list[RunDirectory], command: Command, tmp_path: Path
) -> None:
    arguments = ["train", *BASE, *SETTINGS[setting].split(), f"run_dir={tmp_path / 'run'}"]
    output = tmp_path / "output.txt"
    assert run_killed(moment, count, arguments, output) == -9, output.read_text()
    run = RunDirectory.open(tmp_path / "run")
    assert run.read_status()["status"] == "stopped"
    command("train", f"run={run.path}")
    check_training(uninterrupted[setting], run)
    check_results(uninterrupted[setting], run)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
