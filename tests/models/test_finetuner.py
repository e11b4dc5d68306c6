"""FineTuner under a real Trainer: any number of heads, missing labels, gradients, whole-split metrics, checkpoints."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from visiontune.callbacks import LastWindowScale
from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.data.mixing import BatchMixer
from visiontune.errors import UserError
from visiontune.models.backbones import build
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads import ClassificationHead, DenseHead
from visiontune.models.loss_terms import L1
from visiontune.optim import schedulers
from visiontune.strategies import Full, GradualUnfreeze, LinearProbe

CLASSES = {"colour": ["red", "green", "blue"], "size": ["small", "large"]}


def make(
    *tasks: str,
    strategy: Any = Full,
    epochs: int = 1,
    lr: float = 0.1,
    optimizer: Any = torch.optim.SGD,
    backbone: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    **options: Any,
) -> FineTuner:
    torch.manual_seed(0)
    network, _ = build("small_cnn", **({"widths": [4, 8], "depth": 1} | (backbone or {})))
    heads = {
        task: ClassificationHead(network.shape, TaskInfo("classification", CLASSES[task]), **(head or {}))
        for task in tasks or ("colour",)
    }
    names = [*(name for name, _ in network.stages()), "heads"]
    return FineTuner(
        network,
        heads,
        optimizer=partial(optimizer, lr=lr),
        scheduler=partial(schedulers.constant),
        strategy=strategy(stages=names, epochs=epochs),
        **options,
    )


def batch(count: int, seed: int = 0, tasks: tuple[str, ...] = ("colour",), **targets: list[Any]) -> dict[str, Any]:
    """Images whose brightest channel is their colour; `targets` replaces the labels of a task."""
    draw = torch.Generator().manual_seed(seed)
    colour = torch.randint(3, (count,), generator=draw)
    size = torch.randint(2, (count,), generator=draw)
    image = 0.4 * torch.rand(count, 3, 16, 16, generator=draw)
    image[torch.arange(count), colour] += 0.4
    labels = {"colour": colour.tolist(), "size": size.tolist()}
    chosen = {task: labels[task] for task in tasks} | targets
    return {
        "image": image,
        "targets": chosen,
        "truth": chosen,
        "frame": [Frame.whole(16, 16)] * count,
        "index": torch.arange(count),
        "path": [f"{seed}/{i}" for i in range(count)],
        "size": torch.tensor([[16, 16]] * count),
    }


def loader(*batches: dict[str, Any]) -> DataLoader:
    """Ready batches in order."""
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def trainer(folder: Path, epochs: int = 1, **options: Any) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        inference_mode=False,  # metrics made in inference mode could not be used by a training after it
        **options,
    )


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class GradientRecorder(L.Callback):
    """Keeps the gradients of every optimizer step, and which groups there are."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.groups: list[list[str]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.steps.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})
        self.groups.append([group["name"] for group in optimizer.param_groups])


# ---- learning


def test_it_learns(tmp_path: Path) -> None:
    model = make(epochs=6, lr=0.02, optimizer=torch.optim.AdamW)
    train, val = loader(*(batch(16, seed) for seed in range(6))), loader(batch(30, 100))
    fit = trainer(tmp_path, 6, check_val_every_n_epoch=6)
    fit.validate(model, val, verbose=False)
    before = {name: float(value) for name, value in fit.callback_metrics.items()}
    fit.fit(model, train, val)
    after = {name: float(value) for name, value in fit.callback_metrics.items()}
    assert before["val/colour/accuracy"] < 0.5 and 1.0 < before["val/colour/loss"] < 1.2
    assert after["val/colour/accuracy"] >= 0.9 and after["val/colour/loss"] < 0.5
    assert after["train/loss"] < 0.5


def test_mixed_targets_train(tmp_path: Path) -> None:
    model = make(epochs=6, lr=0.02, optimizer=torch.optim.AdamW)
    mix = BatchMixer({"colour": TaskInfo("classification", CLASSES["colour"])}, mixup=0.4, cutmix=1.0, seed=0)
    train = [mix(batch(16, seed), epoch=seed) for seed in range(6)]
    assert all(target.shape == (3,) for part in train for target in part["targets"]["colour"])
    fit = trainer(tmp_path, 6, check_val_every_n_epoch=6)
    fit.fit(model, loader(*train), loader(batch(30, 100)))
    assert float(fit.callback_metrics["val/colour/accuracy"]) >= 0.9
    assert float(fit.callback_metrics["train/loss"]) < 0.95  # ln 3 = 1.10 is chance


# ---- many heads, missing labels


def test_many_heads_share_one_pass_and_their_losses_are_weighted(tmp_path: Path) -> None:
    model = make("colour", "size", loss_weights={"size": 0.25})
    parts = batch(10, tasks=("colour", "size"))
    passes = []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    fit = trainer(tmp_path)
    fit.validate(model, loader(parts), verbose=False)
    metrics = {name: float(value) for name, value in fit.callback_metrics.items()}
    assert len(passes) == 1
    assert metrics["val/loss"] == pytest.approx(metrics["val/colour/loss"] + 0.25 * metrics["val/size/loss"], rel=1e-6)
    assert set(model.scores.computed) == {"colour", "size"}
    model.eval()
    with torch.no_grad():
        raw = model(parts["image"])
    for task in ("colour", "size"):
        expected = F.cross_entropy(raw[task]["logits"], torch.tensor(parts["targets"][task]))
        assert metrics[f"val/{task}/loss"] == pytest.approx(float(expected), rel=1e-5)


def test_learned_weights_train_with_the_heads_and_the_score_is_the_mean(tmp_path: Path) -> None:
    model = make("colour", "size", loss_weights="learned", strategy=LinearProbe)
    parts = batch(12, tasks=("colour", "size"))
    fit = trainer(tmp_path, 2)
    fit.fit(model, loader(parts), loader(parts))
    metrics = {name: float(value) for name, value in fit.callback_metrics.items()}
    factors = model.loss_weights.factors()
    expected = sum(factors[task] * metrics[f"val/{task}/loss"] - np.log(factors[task]) for task in ("colour", "size"))
    assert all(factor != 1.0 for factor in factors.values())
    assert metrics["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["val/score"] == pytest.approx((metrics["val/colour/accuracy"] + metrics["val/size/accuracy"]) / 2)
    group = {id(p) for group in model.param_groups() for p in group["params"] if group["name"].startswith("heads")}
    assert {id(p) for p in model.loss_weights.parameters()} <= group


def test_samples_may_lack_the_label_of_a_task(tmp_path: Path) -> None:
    some: list[Any] = [0, None, 1, None, None, 1]
    parts = batch(6, tasks=("colour", "size"), size=some)
    model = make("colour", "size")
    fit = trainer(tmp_path)
    fit.validate(model, loader(parts), verbose=False)
    model.eval()
    with torch.no_grad():
        logits = model(parts["image"])["size"]["logits"][[0, 2, 5]]
    loss = float(fit.callback_metrics["val/size/loss"])
    assert loss == pytest.approx(float(F.cross_entropy(logits, torch.tensor([0, 1, 1]))), rel=1e-5)
    assert int(model.scores.computed["size"]["confusion_matrix"].sum()) == 3
    assert int(model.scores.computed["colour"]["confusion_matrix"].sum()) == 6


def test_an_epochs_losses_are_means_over_labelled_samples(tmp_path: Path) -> None:
    model = make("colour", "size", strategy=LinearProbe)
    fit = trainer(tmp_path, limit_train_batches=2)
    each: list[dict[str, Tensor]] = []
    whole = model.heads["size"].loss
    model.heads["size"].loss = lambda *given: each.append(whole(*given)) or each[-1]
    fit.fit(model, loader(batch(6, tasks=("colour", "size")), batch(6, tasks=("colour", "size"), size=[None] * 6)))
    assert [round(float(part["loss"]), 6) > 0 for part in each] == [True, False]
    assert float(fit.callback_metrics["train/size/loss"]) == pytest.approx(float(each[0]["loss"]), rel=1e-6)


def test_a_batch_without_any_label_trains(tmp_path: Path) -> None:
    model, recorder = make("colour", "size"), GradientRecorder()
    before = state(model)
    without = batch(4, tasks=("colour", "size"), size=[None] * 4)
    bare = batch(4, colour=[None] * 4, size=[None] * 4)
    trainer(tmp_path, callbacks=[recorder]).fit(model, loader(without, bare))
    names = {name for name, _ in model.named_parameters()}
    assert [set(step) for step in recorder.steps] == [names, names]
    assert float(recorder.steps[0]["heads.size.linear.weight"].abs().sum()) == 0.0
    assert float(recorder.steps[0]["heads.colour.linear.weight"].abs().sum()) > 0.0
    assert all(float(gradient.abs().sum()) == 0.0 for gradient in recorder.steps[1].values())
    after = state(model)
    assert torch.equal(before["heads.size.linear.weight"], after["heads.size.linear.weight"])
    assert not torch.equal(before["heads.colour.linear.weight"], after["heads.colour.linear.weight"])


def test_unknown_heads_and_metrics_are_refused() -> None:
    with pytest.raises(UserError, match=r"^loss_weights.depth: unknown head; write one of colour, size$"):
        make("colour", "size", loss_weights={"depth": 1.0})
    with pytest.raises(UserError) as monitor:
        make(monitor="val/colour/map")
    assert str(monitor.value) == (
        "monitor=val/colour/map cannot decide which epoch is best; write one of val/colour/accuracy, val/colour/f1, "
        "val/colour/precision, val/colour/recall, val/colour/auroc, val/colour/calibration_error, val/colour/loss"
    )


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        (None, ("val/score", "max")),
        ("val/size/f1", ("val/size/f1", "max")),
        ("val/size/loss", ("val/size/loss", "min")),
        ("val/colour/calibration_error", ("val/colour/calibration_error", "min")),
    ],
)
def test_the_head_decides_the_direction(monitor: str | None, expected: tuple[str, str]) -> None:
    assert make("colour", "size", monitor=monitor).monitor == expected


def test_one_head_is_judged_by_its_own_metric() -> None:
    assert make("size").monitor == ("val/size/accuracy", "max")
    with pytest.raises(UserError, match="monitor=val/score cannot decide which epoch is best"):
        make("size", monitor="val/score")


# ---- gradients


@pytest.mark.parametrize("limit", [None, 6])
def test_the_last_shorter_window_has_the_gradient_of_the_plain_mean(tmp_path: Path, limit: int | None) -> None:
    # Seven batches (or six) in windows of four: the second window has three (or two).
    batches = [batch(4, seed) for seed in range(7)]
    model, recorder = make(strategy=LinearProbe, lr=0.0), GradientRecorder()
    options = {} if limit is None else {"limit_train_batches": limit}
    callbacks = [recorder, LastWindowScale()]
    trainer(tmp_path, accumulate_grad_batches=4, callbacks=callbacks, **options).fit(model, loader(*batches))
    assert len(recorder.steps) == 2
    model.eval()
    for window, step in ((batches[:4], recorder.steps[0]), (batches[4:limit], recorder.steps[1])):
        image = torch.cat([part["image"] for part in window])
        labels = torch.tensor([label for part in window for label in part["targets"]["colour"]])
        loss = F.cross_entropy(model(image)["colour"]["logits"], labels)
        weight = model.heads["colour"].linear.weight
        (expected,) = torch.autograd.grad(loss, weight)
        torch.testing.assert_close(step["heads.colour.linear.weight"], expected, rtol=1e-4, atol=1e-7)


def test_l1_is_on_weights_alone(tmp_path: Path) -> None:
    plain, sparse = GradientRecorder(), GradientRecorder()
    parts = batch(4)
    for recorder, l1 in ((plain, 0.0), (sparse, 0.5)):
        model = make(strategy=LinearProbe, lr=0.0)
        model.loss_terms.append(L1(l1))
        trainer(tmp_path, callbacks=[recorder]).fit(model, loader(parts))
    difference = {name: sparse.steps[0][name] - plain.steps[0][name] for name in plain.steps[0]}
    weight = model.heads["colour"].linear.weight.detach()
    torch.testing.assert_close(difference["heads.colour.linear.weight"], 0.5 * weight.sign())
    assert float(difference["heads.colour.linear.bias"].abs().max()) < 1e-7
    assert set(difference) == {"heads.colour.linear.weight", "heads.colour.linear.bias"}


def test_groups_are_the_same_from_the_first_step_to_the_last(tmp_path: Path) -> None:
    model = make(strategy=partial(GradualUnfreeze, schedule={"block2": 1, "block1": 2}), epochs=3)
    recorder = GradientRecorder()
    trainer(tmp_path, 3, callbacks=[recorder]).fit(model, loader(batch(4)))
    assert len(recorder.groups) == 3 and recorder.groups[0] == recorder.groups[1] == recorder.groups[2]
    assert len(recorder.groups[0]) == 6
    owners = [{".".join(name.split(".")[1:3]) for name in step if "backbone" in name} for step in recorder.steps]
    assert owners == [set(), {"model.block2"}, {"model.block1", "model.block2"}]


def test_an_unfrozen_stage_starts_with_small_steps(tmp_path: Path) -> None:
    """Four steps an epoch: in the first after unfreezing, each weight moves by a quarter of Adam's step at most."""
    lr = 0.01
    model = make(
        strategy=partial(GradualUnfreeze, schedule={"block2": 1}, lr_decay=1.0, warmup_epochs=1.0),
        optimizer=partial(torch.optim.Adam, betas=(0.0, 0.0)),
        epochs=3, lr=lr,
    )  # fmt: skip
    moved: list[float] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            self.before = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}

        def on_train_batch_end(self, *_: Any) -> None:
            now = model.backbone.named_parameters()
            moved.append(max(float((p - self.before[name]).abs().max()) for name, p in now))
            assert {group["lr"] for group in model.optimizers().param_groups} == {lr}  # type: ignore[union-attr]

    trainer(tmp_path, 3, callbacks=[Watch()]).fit(model, loader(*(batch(8, seed) for seed in range(4))))
    assert moved[:4] == [0.0] * 4  # frozen
    assert moved[4:8] == pytest.approx([lr / 4, lr / 2, lr * 3 / 4, lr], rel=0.02)
    assert moved[8:] == pytest.approx([lr] * 4, rel=0.02)


def test_dropout_depends_on_seed_epoch_and_step_alone(tmp_path: Path) -> None:
    def gradients(noise: int, seed: int) -> list[Tensor]:
        model, recorder = make(strategy=LinearProbe, lr=0.0, head={"dropout": 0.5}, seed=seed), GradientRecorder()
        torch.manual_seed(noise)
        trainer(tmp_path, 2, callbacks=[recorder]).fit(model, loader(batch(8), batch(8)))
        return [step["heads.colour.linear.weight"] for step in recorder.steps]

    first = gradients(1, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(2, seed=5), strict=True))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    assert not torch.equal(first[0], gradients(1, seed=0)[0])


def test_the_schedule_has_the_length_of_the_training(tmp_path: Path) -> None:
    model = make(lr=1.0)
    model.make_scheduler = partial(schedulers.linear, warmup=0.0)
    fit = trainer(tmp_path, 3, accumulate_grad_batches=2)
    fit.fit(model, loader(*(batch(4, seed) for seed in range(5))))
    assert fit.global_step == 9  # three windows in each of three epochs
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


# ---- metrics


def test_metrics_are_of_the_whole_split(tmp_path: Path) -> None:
    model = make()
    nn.init.normal_(model.heads["colour"].linear.weight, std=2.0)
    batches = [batch(count, count) for count in (13, 1, 6, 2)]
    fit = trainer(tmp_path)
    for _ in range(2):  # nothing is left over from the pass before
        fit.validate(model, loader(*batches), verbose=False)
        metrics = {name: float(value) for name, value in fit.callback_metrics.items()}
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(part["image"])["colour"]["logits"] for part in batches])
        truth = [label for part in batches for label in part["targets"]["colour"]]
        guess = logits.argmax(1).numpy()
        assert metrics["val/colour/accuracy"] == pytest.approx(np.mean(guess == truth), abs=1e-6)
        assert metrics["val/colour/f1"] == pytest.approx(f1_score(truth, guess, average="macro"), abs=1e-6)
        expected = float(F.cross_entropy(logits, torch.tensor(truth)))
        assert metrics["val/colour/loss"] == pytest.approx(expected, rel=1e-5) == metrics["val/loss"]


def test_metrics_are_of_full_precision_under_mixed_precision(tmp_path: Path) -> None:
    """A restorer that changes nothing, measured against its input: bf16 makes an SSIM of 0.8 of that."""
    torch.manual_seed(0)
    network, _ = build("small_cnn", widths=[4, 8], depth=1)
    head = DenseHead(network.shape, TaskInfo("dense", ["red", "green", "blue"]), channels=8, detail=8, residual=True)
    model = make()
    model = FineTuner(network, {"dense": head}, model.make_optimizer, model.make_scheduler, model.strategy)
    parts = batch(4)
    parts["targets"] = parts["truth"] = {"dense": list(parts["image"])}
    fit = trainer(tmp_path, precision="bf16-mixed")
    fit.test(model, loader(parts), verbose=False)
    assert float(fit.callback_metrics["test/dense/ssim"]) == pytest.approx(1.0, abs=1e-5)


def test_any_split_is_measured_under_its_own_name(tmp_path: Path) -> None:
    model = make()
    model.split = "train"
    fit = trainer(tmp_path)
    fit.test(model, loader(batch(6)), verbose=False)
    names = ("accuracy", "f1", "precision", "recall", "auroc", "calibration_error", "loss")
    assert set(fit.callback_metrics) == {"train/loss", *(f"train/colour/{name}" for name in names)}


def test_predictions_come_with_their_paths(tmp_path: Path) -> None:
    model = make("colour", "size")
    (rows,) = trainer(tmp_path).predict(model, loader(batch(3, seed=4)))
    assert [path for path, _ in rows] == ["4/0", "4/1", "4/2"]
    counts = [{task: len(p["scores"]) for task, p in predictions.items()} for _, predictions in rows]
    assert counts == [{"colour": 3, "size": 2}] * 3


# ---- checkpoints


def test_a_checkpoint_is_plain_data_and_names_its_classes(tmp_path: Path) -> None:
    tasks = {"colour": {"kind": "classification", "classes": CLASSES["colour"]}}
    model = make(description={"version": "9", "tasks": tasks}, optimizer=torch.optim.AdamW)

    class Save(L.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "a.ckpt")

    trainer(tmp_path, 2, callbacks=[Save()]).fit(model, loader(batch(4), batch(4)), loader(batch(4)))
    loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert loaded["visiontune"] == {"version": "9", "tasks": tasks, "epochs": 2}
    assert set(loaded["state_dict"]) == set(model.state_dict())
    other = make()
    other.load_state_dict(loaded["state_dict"])
    assert all(torch.equal(a, b) for a, b in zip(state(other).values(), state(model).values(), strict=True))


def test_compiling_changes_no_name() -> None:
    model = make()
    names = list(model.state_dict())
    model.backbone.compile(backend="eager")
    assert list(model.state_dict()) == names
    assert model(batch(2)["image"])["colour"]["logits"].shape == (2, 3)


def test_stages_are_disjoint_and_complete() -> None:
    model = make("colour", "size")
    assert [name for name, _ in model.stages()] == ["block1", "block2", "heads"]
    owned = [id(p) for _, stage in model.stages() for p in stage.parameters()]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
