"""A run from images to predictions: its files, and the verbs that read only the run directory."""

import csv
import json
import math
import re
import shutil
from collections import Counter
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from running import Command, Outcome
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from visiontune.data.images import load_images
from visiontune.data.video import VideoWriter, frame_rate, frames
from visiontune.runs import RunDirectory
from visiontune.runs.predictions import COLUMNS, read_predictions


def history(run: RunDirectory) -> list[dict[str, str]]:
    with run.history.open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(run: RunDirectory) -> dict[str, float]:
    return json.loads(run.metrics.read_text())


@pytest.fixture
def run_copy(run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the trained run, which a test may change."""
    shutil.copytree(run.path, tmp_path / "copy")
    return RunDirectory.open(tmp_path / "copy")


def test_the_run_directory(run: RunDirectory, trained: Outcome) -> None:
    assert run.path.parent.name == "tiles"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{4}", run.path.name)
    assert trained.out.splitlines()[-1] == str(run.path)
    names = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    tensorboard = {name for name in names if name.startswith("tensorboard/")}
    assert tensorboard
    assert names - tensorboard - {".claim"} == {
        "config.yaml",
        "environment.json",
        "status.json",
        "splits.csv",
        "metrics.csv",
        "metrics.json",
        "predictions.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "report/index.html",
        "report/curves.png",
        "report/test_classification_confusion_matrix.png",
        "report/test_classification_worst.png",
        "train.log",
    }


def test_status_and_environment(run: RunDirectory) -> None:
    status = run.read_status()
    assert status["status"] == "finished" and status["updated"] >= status["started"]
    assert set(status["objective"]) == {"name", "mode", "value", "epoch"}
    assert status["objective"]["name"] == "val/classification/accuracy" and status["objective"]["mode"] == "max"
    assert status["objective"]["value"] == metrics(run)["val/classification/accuracy"]
    environment = json.loads(run.environment.read_text())
    assert environment["seed"] == 7 and environment["argv"][0] == "visiontune train"
    assert "optimizer.lr=0.05" in environment["overrides"]
    assert environment["packages"]["torch"] == version("torch")
    assert {"git", "python", "platform", "working_directory"} <= set(environment)


def test_the_config_needs_no_other_file(run: RunDirectory, tiles: Path) -> None:
    text = run.config.read_text()
    assert "${" not in text and "???" not in text
    cfg = OmegaConf.create(text)
    assert cfg.data.root == cfg.data.reader.root == str(tiles)
    assert cfg.optimizer.lr == 0.05 and cfg.trainer.max_epochs == 4 and cfg.test is True and cfg.name == "tiles"


def test_splits(run: RunDirectory, tiles: Path) -> None:
    with run.splits.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "split", "group", "content", "labels"]
    assert {row["path"] for row in rows} == {path.relative_to(tiles).as_posix() for path in tiles.rglob("*.png")}
    assert Counter(row["split"] for row in rows) == {"train": 42, "val": 9, "test": 9}


def test_history_has_a_row_before_the_first_step_and_one_an_epoch(run: RunDirectory) -> None:
    rows = history(run)
    assert [(row["epoch"], row["step"]) for row in rows] == [
        ("0", "0"),
        ("1", "6"),
        ("2", "12"),
        ("3", "18"),
        ("4", "24"),
    ]
    assert rows[0]["train/loss"] == "" and float(rows[4]["train/loss"]) < float(rows[1]["train/loss"])
    assert max(float(row["val/classification/accuracy"]) for row in rows) >= 0.9
    best = max(reversed(rows), key=lambda row: float(row["val/classification/accuracy"]))  # the last of equal scores
    objective = run.read_status()["objective"]
    assert objective["epoch"] == int(best["epoch"])
    assert objective["value"] == pytest.approx(float(best["val/classification/accuracy"]), abs=1e-5)


def test_predictions_agree_with_the_metrics(run: RunDirectory) -> None:
    rows = read_predictions(run.predictions)
    assert tuple(rows[0]) == COLUMNS
    assert Counter(row["split"] for row in rows) == {"val": 9, "test": 9}
    for split in ("val", "test"):
        mine = [row for row in rows if row["split"] == split]
        assert all(row["path"].startswith(row["truth"] + "/") for row in mine)
        assert {row["prediction"] for row in mine} <= {"brick", "grass", "sky"}
        right = sum(row["truth"] == row["prediction"] for row in mine) / len(mine)
        assert right == pytest.approx(metrics(run)[f"{split}/classification/accuracy"], abs=1e-6)
        loss = math.fsum(float(row["loss"]) for row in mine) / len(mine)
        assert loss == pytest.approx(metrics(run)[f"{split}/classification/loss"], abs=1e-5)
    assert metrics(run)["test/classification/accuracy"] >= 0.7  # chance is 1/3


def test_checkpoints_are_plain_and_name_their_classes(run: RunDirectory) -> None:
    best, last = (torch.load(run.checkpoint(which), weights_only=True) for which in ("best", "last"))
    for loaded in (best, last):
        assert loaded["visiontune"]["tasks"] == {
            "classification": {"kind": "classification", "classes": ["brick", "grass", "sky"]}
        }
        assert len(loaded["optimizer_states"][0]["param_groups"]) == 6  # frozen stages have groups as well
    assert last["visiontune"]["epochs"] == 4 and last["global_step"] == 24
    assert best["visiontune"]["epochs"] == run.read_status()["objective"]["epoch"]


def test_tensorboard(run: RunDirectory) -> None:
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    tags = board.Tags()
    assert {"first_batch", "test/classification/confusion_matrix", "test/classification/worst"} <= set(tags["images"])
    scalars = set(tags["scalars"])
    assert {"train/loss", "val/loss", "val/classification/accuracy"} <= scalars
    # block2 unfreezes in the second of four epochs of six steps, block1 in the third. Each warms up for one epoch.
    starts = {"heads": 0, "block2": 6, "block1": 12}
    for stage, first in starts.items():
        for curve in ("lr", "gradient_norm"):
            points = board.Scalars(f"{curve}/{stage}")
            assert [point.step for point in points] == list(range(first, 24))
            assert all(point.value > 0 for point in points[:-1]), curve  # the cosine ends at 0
    lrs = {stage: {point.step: point.value for point in board.Scalars(f"lr/{stage}")} for stage in starts}
    assert [lrs["block2"][6 + i] / lrs["heads"][6 + i] for i in range(7)] == pytest.approx(
        [0.9 * factor / 6 for factor in (1, 2, 3, 4, 5, 6, 6)], rel=1e-5
    )
    trained = board.Scalars("strategy/trained_stages")
    assert [(point.step, point.value) for point in trained] == [(0, 1), (6, 2), (12, 3), (18, 3)]
    texts = [
        (event.step, event.tensor_proto.string_val[0].decode())
        for event in board.Tensors("strategy/unfreezing/text_summary")
    ]
    assert texts == [(0, "epoch 1: heads"), (6, "epoch 2: block2"), (12, "epoch 3: block1")]
    (objective,) = board.Scalars("best/val/classification/accuracy")
    assert objective.value == pytest.approx(metrics(run)["val/classification/accuracy"])
    hparams = {tag for tag in board.summary_metadata if "hparams" in tag}
    assert "_hparams_/session_start_info" in hparams


def test_the_report_page(run: RunDirectory) -> None:
    page = (run.report / "index.html").read_text()
    for name in re.findall(r'src="([^"]+)"', page):
        assert (run.report / name).is_file()
    assert page.count("<img") == 3
    assert f"<td>test/classification/accuracy</td><td>{metrics(run)['test/classification/accuracy']:.4f}</td>" in page


def test_the_output_of_train(trained: Outcome, run: RunDirectory) -> None:
    assert trained.err == ""
    assert f"best checkpoint  {run.checkpoints / 'best.ckpt'}" in trained.out
    assert f"tensorboard      tensorboard --logdir {run.path}" in trained.out
    epochs = re.findall(r"^epoch (\d)/4  step (\d+) ", trained.out, re.M)
    assert epochs == [("0", "0"), ("1", "6"), ("2", "12"), ("3", "18"), ("4", "24")]
    log = run.log.read_text()
    assert all(line in log for line in ("monitor:       val/classification/accuracy", "epoch 4/4"))


# ---- after training


@pytest.mark.parametrize("split", ["test", "val"])
def test_evaluate_gives_the_same_metrics_from_anywhere(
    split: str, run: RunDirectory, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(run.path.rglob("*"))
    outcome = command("evaluate", f"run={run.path}", f"split={split}", "output=measured")
    assert outcome.code == 0, outcome.err
    values = json.loads((tmp_path / "measured" / "metrics.json").read_text())
    expected = {name: value for name, value in metrics(run).items() if name.startswith(f"{split}/")}
    assert values == pytest.approx(expected, abs=1e-6) and len(values) == 8
    rows = [row for row in read_predictions(run.predictions) if row["split"] == split]
    assert read_predictions(tmp_path / "measured" / "predictions.csv") == rows
    printed = re.search(rf"^{split}/classification/loss\s+(\S+)$", outcome.out, re.M)
    assert printed is not None
    assert float(printed[1]) == pytest.approx(expected[f"{split}/classification/loss"], abs=1e-6)
    assert sorted(run.path.rglob("*")) == before  # the run is unchanged


def test_evaluate_after_images_were_added_and_moved(
    run_copy: RunDirectory, command: Command, tiles: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiles, tmp_path / "moved")
    Image.new("RGB", (20, 20), (1, 2, 3)).save(tmp_path / "moved" / "sky" / "new.png")
    arguments = [f"run={run_copy.path}", f"data_root={tmp_path / 'moved'}"]
    outcome = command("evaluate", *arguments, f"output={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err
    values = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = {name: value for name, value in metrics(run_copy).items() if name.startswith("test/")}
    assert values == pytest.approx(expected, abs=1e-6)
    with run_copy.splits.open(newline="") as file:
        victim = next(row["path"] for row in csv.DictReader(file) if row["split"] == "test")
    Image.new("RGB", (20, 20)).save(tmp_path / "moved" / victim)
    again = command("evaluate", *arguments)
    assert again.message.startswith(f"1 image has changed since this run started: {victim}. If data_root=")


def test_predict_a_folder(run: RunDirectory, command: Command, tiles: Path, tmp_path: Path) -> None:
    source = tmp_path / "new"
    shutil.copytree(tiles / "sky", source / "deep")
    shutil.copy(tiles / "grass" / "00.png", source / "a meadow.png")
    (source / "notes.txt").write_text("no image")
    outcome = command("predict", f"run={run.path}", f"input={source}", f"output={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == str(tmp_path / "out")
    rows = read_predictions(tmp_path / "out" / "predictions.csv")
    assert [row["path"] for row in rows] == ["a meadow.png", *(f"deep/{i:02d}.png" for i in range(20))]
    assert rows[0]["prediction"] == "grass"
    assert sum(row["prediction"] == "sky" for row in rows[1:]) >= 15
    assert all(1 / 3 < float(row["score"]) <= 1 for row in rows)
    assert {(row["truth"], row["split"], row["loss"]) for row in rows} == {("", "", "")}
    images = sorted(path.relative_to(tmp_path / "out" / "images") for path in tmp_path.rglob("images/**/*.png"))
    assert len(images) == 21 and Path("deep/00.png") in images
    with Image.open(tmp_path / "out" / "images" / "deep" / "00.png") as image:
        assert image.size[0] == 24 * 8 and image.size[1] > 20 * 8  # enlarged, with a line of text below


def test_predict_one_file_agrees_with_the_run(run: RunDirectory, command: Command, tiles: Path, tmp_path: Path) -> None:
    row = next(row for row in read_predictions(run.predictions) if row["split"] == "test")
    arguments = [f"run={run.path}", f"input={tiles / row['path']}", f"output={tmp_path / 'out'}", "images=false"]
    assert command("predict", *arguments).code == 0
    (prediction,) = read_predictions(tmp_path / "out" / "predictions.csv")
    assert prediction["path"] == Path(row["path"]).name and prediction["prediction"] == row["prediction"]
    assert float(prediction["score"]) == pytest.approx(float(row["score"]), abs=2e-6)
    assert not (tmp_path / "out" / "images").exists()


def test_predict_a_video(run: RunDirectory, command: Command, tiles: Path, tmp_path: Path) -> None:
    """A frame is predicted like its image, and the output video is as long as the input."""
    paths = [tiles / kind / "00.png" for kind in ("sky", "grass", "brick") for _ in range(4)]
    with VideoWriter(tmp_path / "walk.mp4", Fraction(8)) as video:
        for image in load_images(paths):
            video.write(image.repeat_interleave(4, 1).repeat_interleave(4, 2))
    outcome = command("predict", f"run={run.path}", f"input={tmp_path / 'walk.mp4'}", f"output={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err
    assert "12 frames" in outcome.out
    rows = read_predictions(tmp_path / "out" / "predictions.csv")
    assert [row["path"] for row in rows] == [f"walk.mp4/{i:06d}" for i in range(12)]
    assert sum(row["prediction"] == path.parent.name for row, path in zip(rows, paths, strict=True)) >= 8
    result = tmp_path / "out" / "images" / "walk.mp4"
    assert frame_rate(result) == 8 and len(list(frames(result))) == 12


def test_a_finished_run_resumes_with_more_epochs(run_copy: RunDirectory, command: Command) -> None:
    before = history(run_copy)
    outcome = command("train", f"run={run_copy.path}", "trainer.max_epochs=6")
    assert outcome.code == 0, outcome.err
    assert outcome.run.path == run_copy.path
    assert "probe of classification" not in outcome.out  # it does not start again
    rows = history(run_copy)
    assert rows[:5] == before  # no gap and no duplicate
    assert [row["epoch"] for row in rows[5:]] == ["5", "6"] and [row["step"] for row in rows[5:]] == ["30", "36"]
    last = torch.load(run_copy.checkpoint("last"), weights_only=True)
    assert last["visiontune"]["epochs"] == 6 and last["global_step"] == 36
    assert run_copy.read_config().trainer.max_epochs == 6
    status = run_copy.read_status()
    assert status["status"] == "finished"
    assert status["objective"]["value"] >= max(float(row["val/classification/accuracy"]) for row in before) - 1e-5


def test_a_run_that_cannot_resume(run_copy: RunDirectory, command: Command) -> None:
    finished = command("train", f"run={run_copy.path}").message
    assert finished == (
        f"{run_copy.path} is finished: ask for more epochs with trainer.max_epochs=14, or start a new run from "
        f"its weights with weights_from={run_copy.path}"
    )
    other = command("train", f"run={run_copy.path}", "strategy=full").message
    assert other.startswith("strategy=full: a resumed run keeps its config; what may change is how long and where")
    lr = command("train", f"run={run_copy.path}", "trainer.max_epochs=20", "optimizer.lr=0.5").message
    assert lr.startswith("optimizer.lr=0.5: a resumed run keeps its config")
    assert run_copy.read_status()["status"] == "finished"


def test_a_new_run_from_its_weights(run: RunDirectory, command: Command, tiny: list[str], tiles: Path) -> None:
    mine = [override for override in tiny if not override.startswith(("backbone", "data.limit_train"))]
    outcome = command("train", *mine, "data.limit_train=64", f"weights_from={run.path}")
    other = outcome.run
    assert other.path != run.path and other.read_config().backbone.widths == [4, 8]
    for name, old in (("weight", "(3, 8)"), ("bias", "(3,)")):
        line = f"heads.classification.linear.{name} {old}: 3 classes -> 10 others, initialised"
        assert line in outcome.out
    theirs = torch.load(run.checkpoint("best"), weights_only=True)["state_dict"]
    same = command("plan", *mine, "data=image_folder", f"data.root={tiles}", f"weights_from={run.path}")
    assert same.code == 0 and f"run {run.path.name}: {len(theirs)} tensors matched, 100.0%" in same.out


def test_a_backbone_from_a_run(run: RunDirectory, command: Command, tiny: list[str]) -> None:
    outcome = command("plan", *tiny, f"backbone.weights={run.path}")
    assert outcome.code == 0 and "tensors matched, 100.0% of the parameters loaded" in outcome.out


# ---- one seed, one result


def test_the_same_seed_gives_the_same_numbers(command: Command, tiny: list[str]) -> None:
    seeds = (0, 0, 1)
    arguments = ["strategy=full", "heads.classification.dropout=0.3"]
    runs = [command("train", *tiny, *arguments, f"seed={seed}").run for seed in seeds]
    first, second, third = (metrics(run) for run in runs)
    assert first == second != third
    states = [torch.load(run.checkpoint("last"), weights_only=True)["state_dict"] for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert len({run.path for run in runs}) == 3


def test_a_probe_is_the_first_candidate(command: Command, tiny: list[str]) -> None:
    """With a learning rate that ruins the head, the best checkpoint is the one from before the first step."""
    outcome = command("train", *tiny, "probe=true", "strategy=full", "optimizer.lr=30", "scheduler=constant")
    rows = history(outcome.run)
    assert float(rows[1]["val/classification/accuracy"]) < float(rows[0]["val/classification/accuracy"]) - 0.1
    objective = outcome.run.read_status()["objective"]
    assert objective["epoch"] == 0
    assert objective["value"] == pytest.approx(float(rows[0]["val/classification/accuracy"]), abs=1e-5)
    assert "probe of classification: logistic regression on 64 embeddings, penalty" in outcome.out


# ---- plan


def test_plan_says_what_train_would_do_and_does_nothing(
    command: Command, tiles: Path, small: list[str], logs: Path
) -> None:
    before = sorted(logs.rglob("*"))
    arguments = [*small, "data=image_folder", f"data.root={tiles}", "data.batch_size=8", "trainer.max_epochs=4"]
    arguments += ["strategy=gradual_unfreeze", "trainer.accumulate_grad_batches=4", "optimizer.lr=0.01"]
    outcome = command(
        "plan",
        *arguments,
        "strategy.lr_decay=0.5",
        "strategy.head_epochs=1",
        "strategy.unfrozen_by=0.5",
        "optimizer.weight_decay=0.1",
    )
    assert outcome.code == 0 and outcome.err == ""
    assert sorted(logs.rglob("*")) == before
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    for line in (
        "data: classification, 3 classes",
        "brick 14 3 3",
        "images 42 9 9",
        "weights: random initialisation",
        "block1 116 3-4 2.50e-03 0.1 / 0",
        "block2 304 2-4 5.00e-03 0.1 / 0",
        "heads 27 1-4 1.00e-02 0.1 / 0",
        "training: 4 epochs of 2 steps = 8 steps, 8 images x 1 rank x 4 accumulated",
        "image: 3 x 16 x 16, resize squash",
    ):
        assert line in lines, line
    assert any(line.startswith("monitor: val/classification/accuracy (max)") for line in lines)
