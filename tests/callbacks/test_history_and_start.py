"""metrics.csv, the probe before the first step, and a row a sample, by a real run."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from running import Command, Outcome

from visiontune.callbacks import History
from visiontune.models.heads.probe import probe
from visiontune.runs import RunDirectory
from visiontune.runs.predictions import Row, read_predictions, write_predictions
from visiontune.training.build import build_data
from visiontune.training.load import load_model, open_run


def trainer(step: int, **metrics: float) -> Any:
    values = {name.replace("__", "/"): torch.tensor(value) for name, value in metrics.items()}
    return SimpleNamespace(global_step=step, max_epochs=9, is_global_zero=True, callback_metrics=values)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,step,seconds,val/loss\n0,0,0.0,4\n1,10,1.0,3\n2,20,2.0,2\n")
    history = History(file, ("val/x/y", "max"))
    history.on_train_start(trainer(10), None)  # type: ignore[arg-type]
    history._write_row(trainer(10, val__loss=9.0), 1)  # Lightning ends epoch 1 again: the row stands
    history._write_row(trainer(20, val__loss=1.0, train__loss=0.5, train__loss_step=7.0, other=1.0), 2)
    found = rows(file)
    assert [(row["epoch"], row["step"], row["val/loss"]) for row in found] == [
        ("0", "0", "4"),
        ("1", "10", "3"),
        ("2", "20", "1"),
    ]
    assert set(found[0]) == {"epoch", "step", "seconds", "val/loss", "train/loss"}
    assert found[2]["train/loss"] == "0.5" and found[0]["train/loss"] == ""


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.csv", ("val/x/y", "max"))
    other = trainer(10, val__loss=1.0)
    other.is_global_zero = False
    history._write_row(other, 1)
    assert not (tmp_path / "metrics.csv").exists()


def test_a_run_begins_at_its_probe(command: Command, tiny: list[str]) -> None:
    arguments = ["probe=true", "optimizer.lr=1e-12", "strategy=linear_probe", "technique=none"]
    run, cfg = open_run(str(command("train", *tiny, *arguments).run.path))
    model, _ = load_model(run, cfg, "last")
    data = build_data(cfg)
    model.eval()
    parts = []
    for split in ("train", "val"):
        batches = [data.to_network(batch) for batch in data.eval_loader(split)]
        with torch.no_grad():
            x = torch.cat([model.backbone(batch["image"]).embedding for batch in batches])
        parts += [x, torch.tensor([label for batch in batches for label in batch["targets"]["classification"]])]
    expected = probe(*parts, 10, cfg.heads.classification.label_smoothing)
    head = model.heads["classification"].linear
    torch.testing.assert_close(head.weight.detach(), expected.weight, rtol=1e-2, atol=1e-3)
    first = rows(run.history)[0]
    assert (first["epoch"], first["step"]) == ("0", "0")
    assert float(first["val/classification/accuracy"]) == pytest.approx(expected.val_accuracy, abs=5e-3)
    assert expected.val_accuracy > 0.3


@pytest.mark.slow
def test_without_a_probe_a_run_begins_at_chance(trained: Outcome, run: RunDirectory) -> None:
    assert run.read_config().probe is False  # auto: the backbone is random
    assert "probe of" not in trained.out
    assert float(rows(run.history)[0]["val/classification/loss"]) == pytest.approx(1.0986, abs=0.05)  # ln 3


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [
        Row("a, b.png", "val", "x", "cat", "dog", 0.25, 1.5),
        Row("c.png", "", "x", "", "dog", float("nan"), float("nan")),
    ]
    write_predictions(tmp_path / "p.csv", written)
    assert read_predictions(tmp_path / "p.csv") == [
        {
            "path": "a, b.png",
            "split": "val",
            "task": "x",
            "truth": "cat",
            "prediction": "dog",
            "score": "0.250000",
            "loss": "1.500000",
        },
        {"path": "c.png", "split": "", "task": "x", "truth": "", "prediction": "dog", "score": "", "loss": ""},
    ]
