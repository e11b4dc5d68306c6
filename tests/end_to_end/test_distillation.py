"""`distill.teacher=RUN` in a training: the teacher's inputs, the model without it, resuming, and refused settings."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from alike import check_training, history
from running import Command, Outcome
from torch import Tensor

from visiontune import train
from visiontune.callbacks import Checkpoints
from visiontune.models.distillation import Teacher, pair_maps
from visiontune.models.loss_terms import TrainingStep
from visiontune.runs import RunDirectory
from visiontune.training.fit import prepare
from visiontune.training.load import load_model, read_checkpoint

LEARNING = ["optimizer.lr=0.01", "strategy=full", "strategy.batchnorm=train", "augment=mixup", "augment.flip=false"]


@pytest.fixture(autouse=True)
def no_report_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "report", lambda *_: None)  # half the time of such a small run


@pytest.fixture(scope="module")
def teacher(command: Command, tiny: list[str]) -> RunDirectory:
    """A run on the digits, a little wider and with larger images than the others here."""
    wide = ["backbone.widths=[16,32]", "data.image_size=20", "trainer.max_epochs=8", "data.limit_train=null"]
    run = command("train", *tiny, *wide, *LEARNING, "augment=none", "optimizer.lr=0.05", "data.batch_size=32").run
    assert run.read_status()["objective"]["value"] > 0.9
    return run


@pytest.fixture
def student(command: Command, tiny: list[str], teacher: RunDirectory) -> Any:
    def run(*overrides: str, distilled: bool = True) -> Outcome:
        teachers = [f"distill.teacher={teacher.path}"] if distilled else []
        return command("train", *tiny, *LEARNING, *teachers, *overrides)

    return run


def test_a_teacher_without_weight_changes_nothing(student: Any) -> None:
    without, distilled = student(distilled=False).run, student("distill.weight=0").run
    rows = history(distilled)
    assert [{key: row[key] for key in before} for row, before in zip(rows, history(without), strict=True)] == history(
        without
    )
    assert float(rows[-1]["train/classification/distill"]) > 0.01
    assert rows[-1]["train/classification/loss"] == rows[-1]["train/loss"]
    same, state = (read_checkpoint(run.checkpoint("best"))["state_dict"] for run in (distilled, without))
    assert same.keys() == state.keys() and all(torch.equal(same[key], state[key]) for key in state)


@pytest.mark.slow
def test_a_student_without_labels_learns_from_the_teacher(student: Any, teacher: RunDirectory) -> None:
    """One image in twenty has a label, and the labels have no weight: only the teacher trains the student."""
    more = ["distill.weight=1", "trainer.max_epochs=6", "data.limit_train=null", "data.labelled=0.05"]
    rows = history(student(*more, "backbone.widths=[16,32]", "augment=none", "optimizer.lr=0.05").run)
    assert float(rows[-1]["train/classification/distill"]) < 0.5 * float(rows[1]["train/classification/distill"])
    assert float(rows[-1]["val/classification/accuracy"]) > 0.5
    assert float(rows[0]["val/classification/accuracy"]) < 0.2


def test_the_teacher_gets_the_images_of_the_student_in_its_own_size(
    config: Any, teacher: RunDirectory, tmp_path: Path
) -> None:
    cfg = config("augment=mixup", "augment.flip=false", f"distill.teacher={teacher.path}", "distill.features=1")
    data, model, _ = prepare(cfg)
    distillation: Any = model.loss_terms[0]
    teacher_inputs: list[Tensor] = []
    inside = distillation.teacher.model.backbone
    inside.register_forward_hook(lambda module, inputs, output: teacher_inputs.append(inputs[0]))
    batch = data.to_network(next(iter(data.train_dataloader())), training=True, epoch=0)
    model.train()
    features, raw = model._forward_features(batch)
    step = TrainingStep(batch, features, raw, losses={"classification": torch.zeros(())})
    distillation(model, step)
    assert all(target.ndim == 1 for target in batch["targets"]["classification"])  # mixed
    torch.testing.assert_close(
        teacher_inputs[0],
        torch.nn.functional.interpolate(batch["image"], (20, 20), mode="bilinear", antialias=True),
    )
    loaded, _ = load_model(teacher, teacher.read_config())
    teacher_outputs = loaded.eval()(teacher_inputs[0])["classification"]["logits"].log_softmax(1)
    assert not inside.training and not any(p.requires_grad for p in inside.parameters())
    soft = (teacher_outputs / 4).log_softmax(1)
    expected = (soft.exp() * (soft - (raw["classification"]["logits"] / 4).log_softmax(1))).sum(1).mean() * 16
    torch.testing.assert_close(step.losses["classification"], 0.5 * expected)


def test_the_model_contains_nothing_of_the_teacher(config: Any, teacher: RunDirectory) -> None:
    plain = prepare(config("strategy=full"))[1]
    distilled = prepare(config("strategy=full", f"distill.teacher={teacher.path}"))[1]
    with_features = prepare(config("strategy=full", f"distill.teacher={teacher.path}", "distill.features=1"))[1]
    assert list(plain.state_dict()) == list(distilled.state_dict()) == list(with_features.state_dict())
    sizes = [sum(p.numel() for p in model.parameters()) for model in (plain, distilled, with_features)]
    # Maps of 8 and 4 cells beside 10 and 5, and embeddings: 4 -> 16, 8 -> 32, 8 -> 32 channels.
    assert sizes == [sizes[0], sizes[0], sizes[0] + 5 * 16 + 9 * 32 + 9 * 32]
    names = [[group["name"] for group in model.param_groups()] for model in (plain, distilled, with_features)]
    assert names[0] == names[1] == names[2]
    grouped = [id(p) for group in with_features.param_groups() for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in with_features.parameters())


def test_features_are_paired_by_resolution() -> None:
    def maps(*sides: int) -> list[Tensor]:
        return [torch.zeros(1, 2, side, side) for side in sides]

    assert pair_maps(maps(48, 24, 12), maps(48, 24, 12, 6, 3)) == [(0, 0), (1, 1), (2, 2)]
    assert pair_maps(maps(24, 12, 6, 6), maps(28, 14, 7)) == [(0, 0), (1, 1), (3, 2)]
    assert pair_maps(maps(64, 32), maps(7, 7, 7)) == [(1, 2)]
    assert pair_maps(maps(64, 32), []) == []


@pytest.mark.slow
def test_resumed_equals_uninterrupted(
    student: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With trainable projections, stopped within an accumulation window; the teacher has moved in between."""
    more = ["distill.features=1", "trainer.max_epochs=3", "data.batch_size=16", "checkpoints.every_steps=1"]
    more += ["trainer.accumulate_grad_batches=3"]
    whole = student(*more, f"run_dir={tmp_path / 'whole'}").run

    class Killed(BaseException):
        pass

    begin = Checkpoints.on_train_batch_start

    def stop(self: Any, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        begin(self, trainer, module, batch, batch_idx)
        if (module.current_epoch, batch_idx) == (1, 2):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_start", stop)
        with pytest.raises(Killed):
            student(*more, f"run_dir={tmp_path / 'parts'}")
    place = whole.read_config().distill.teacher
    shutil.copytree(place, tmp_path / "moved")
    parts = command("train", f"run={tmp_path / 'parts'}", f"distill.teacher={tmp_path / 'moved'}").run
    check_training(whole, parts)
    first, second = (read_checkpoint(run.checkpoint("last"))["exact_resume"]["loss_terms"] for run in (whole, parts))
    assert len(first) == 6 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.slow
def test_another_teacher_is_refused_when_a_run_resumes(student: Any, command: Command, tmp_path: Path) -> None:
    run = student(f"run_dir={tmp_path / 'run'}").run
    original = RunDirectory.open(run.read_config().distill.teacher)
    shutil.copytree(original.path, tmp_path / "other")
    checkpoint = read_checkpoint(tmp_path / "other/checkpoints/best.ckpt")
    torch.save(checkpoint | {"more": 1}, tmp_path / "other/checkpoints/best.ckpt")
    more = [f"run={run.path}", "epochs=2"]
    message = command("train", *more, f"distill.teacher={tmp_path / 'other'}").message
    assert "its best checkpoint is not the one that this run started with" in message
    assert command("train", *more).run.read_status()["status"] == "finished"


@pytest.mark.slow
def test_with_sam_and_half_precision(student: Any) -> None:
    """SAM's two passes use one batch; the teacher has the same precision."""
    row = history(
        student("strategy=full", "technique=[ema,sam]", "trainer.precision=bf16-mixed", "distill.features=1").run
    )[-1]
    assert float(row["train/classification/distill"]) > 0 and 0 < float(row["train/distill_features"]) < 10


@pytest.mark.slow
def test_several_tasks_at_once(command: Command, tiny: list[str]) -> None:
    """Each task learns from the teacher's head for it; the loss is the weighted sum."""
    scenes = [*tiny, "data=digit_scenes", "data.scenes=24", "heads=multitask", "data.image_size=32"]
    teacher_run = command("train", *scenes).run
    run = command("train", *scenes, f"distill.teacher={teacher_run.path}", "distill.weight=0.25", "seed=1").run
    row, tasks = history(run)[-1], list(run.read_config().heads)
    assert len(tasks) > 1
    parts = {task: {key for key in row if key.startswith(f"train/{task}/")} for task in tasks}
    labels = {
        task: sum(float(row[key]) for key in parts[task] if key[-7:] not in ("distill", "/weight")) for task in tasks
    }
    blend = sum(0.75 * labels[task] + 0.25 * float(row[f"train/{task}/distill"]) for task in tasks)
    assert float(row["train/loss"]) == pytest.approx(blend, rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_processes_train_as_one_process(student: Any, tmp_path: Path) -> None:
    """Two ranks with 16 images each train as one process with 32, also the projections; feature variances differ."""
    same = ["augment=none", "optimizer=sgd", "scheduler=constant", "strategy.batchnorm=frozen", "distill.features=1"]
    double = student(*same, "trainer=ddp_cpu", "trainer.max_epochs=1", "data.batch_size=16").run
    single = student(*same, "data.batch_size=32").run
    first, second = (read_checkpoint(run.checkpoint("last")) for run in (single, double))
    pairs = [(first["state_dict"][key], value) for key, value in second["state_dict"].items()]
    terms = [checkpoint["exact_resume"]["loss_terms"] for checkpoint in (first, second)]
    pairs += list(zip(*terms, strict=True))
    assert max(float((a.double() - b).abs().max()) for a, b in pairs) < 1e-4
    start = read_checkpoint(single.checkpoint("best"))["exact_resume"]["loss_terms"]
    assert max(float((a - b).abs().max()) for a, b in zip(start, terms[0], strict=True)) > 1e-3
    for name in ("train/classification/distill", "train/distill_features"):
        assert float(history(single)[-1][name]) == pytest.approx(float(history(double)[-1][name]), rel=0.01)


# ---- refused settings and the plan


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["distill.weight=2"], "distill.weight=2: expected a fraction from 0 to 1, got 2; write distill.weight=0.5"),
        (["distill.temperature=0"], "distill.temperature=0: expected a number above 0, got 0"),
        (["distill.features=-1"], "distill.features=-1: expected a number, 0 or more, got -1"),
        (["data.channels=1"], "write data.channels=3, or name another teacher"),
        (
            ["data=digit_scenes", "data.scenes=24", "heads=regression"],
            "has the tasks classification, and this run has regression",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["train", "plan"])
def test_bad_settings(
    verb: str, overrides: list[str], expected: str, command: Command, tiny: list[str], teacher: RunDirectory, logs: Path
) -> None:
    before = set(logs.rglob("config.yaml"))
    message = command(verb, *tiny, f"distill.teacher={teacher.path}", *overrides).message
    assert expected in message
    assert set(logs.rglob("config.yaml")) == before


def test_bad_teachers(command: Command, tiny: list[str], teacher: RunDirectory, tiles: Path, tmp_path: Path) -> None:
    def refused(place: Path, *overrides: str) -> str:
        return command("train", *tiny, f"distill.teacher={place}", f"run_dir={tmp_path / 'run'}", *overrides).message

    assert refused(tmp_path / "none").startswith(f"{tmp_path / 'none'} is not a run directory")
    photos = refused(teacher.path, "data=image_folder", f"data.root={tiles}", "data.limit_train=null")
    assert photos == (
        f"distill.teacher={teacher.path} was trained for 0, 1, 2, ... (classification), and this data has brick, "
        "grass, sky: write a teacher with the same classes in the same order"
    )
    shutil.copytree(teacher.path, tmp_path / "incomplete")
    (tmp_path / "incomplete/checkpoints/best.ckpt").unlink()
    assert "best.ckpt does not exist" in refused(tmp_path / "incomplete")
    cfg = teacher.read_config()
    cfg.heads.classification._target_ = "elsewhere.Head"
    (tmp_path / "foreign").mkdir()
    RunDirectory(tmp_path / "foreign").write_config(cfg)
    assert "write trust=true if you know where the run comes from" in refused(tmp_path / "foreign")
    assert not (tmp_path / "run").exists()


def test_the_plan_describes_the_teacher(command: Command, tiny: list[str], teacher: RunDirectory) -> None:
    arguments = [*tiny, f"distill.teacher={teacher.path}", "distill.features=0.5", "strategy=linear_probe"]
    out = command("plan", *arguments, "frozen_features.cache=memory", "augment=none").out
    assert (
        f"{teacher.path} (small_cnn, 20 x 20), weight 0.5, temperature 4, features 0.5 with 656 parameters for "
        "training only"
    ) in out
    assert "off: the teacher needs the images themselves" in out
    assert "too optimistic" not in out
    assert "the teacher was trained on images of 20 x 20 and gets enlarged ones of 16 x 16" in out
    assert "the teacher was trained on images of" not in command("plan", *arguments, "data.image_size=20").out
    other = command("plan", *arguments, "seed=1").out
    assert "note: the teacher was trained on " in other and "test images: the student's scores on them" in other


@pytest.mark.slow
def test_a_sweep_over_teachers(command: Command, tiny: list[str], teacher: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(teacher.path, tmp_path / "other")
    both = f"distill.teacher={teacher.path},{tmp_path / 'other'}"
    outcome = command("train", "-m", *tiny, both, "sweep.workers=0", f"sweep_dir={tmp_path / 'sweep'}")
    assert outcome.code == 0, outcome.err
    teachers = [RunDirectory.open(tmp_path / "sweep" / name).read_config().distill.teacher for name in ("000", "001")]
    assert teachers == [str(teacher.path), str(tmp_path / "other")]


def test_a_copy_of_the_student_has_the_same_teacher(config: Any, teacher: RunDirectory) -> None:
    model = prepare(config(f"distill.teacher={teacher.path}"))[1]
    term, copied = model.loss_terms[0], deepcopy(model).loss_terms[0]
    assert copied is not term
    assert isinstance(copied.teacher, Teacher) and copied.teacher is term.teacher  # type: ignore[union-attr]
