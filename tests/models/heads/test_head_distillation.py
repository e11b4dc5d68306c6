"""What each head learns from a teacher: the numbers, nothing where both say the same, a task without labels."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from drawn_objects import DETECTION, INSTANCES, drawn, total
from drawn_scenes import CLASSES, scenes, tiny
from running import mostly_slow
from torch import Tensor, nn
from torch.nn import functional as F

from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.errors import UserError
from visiontune.models.backbones import Backbone, build
from visiontune.models.heads import (
    ClassificationHead,
    DenseHead,
    DetectionHead,
    Distillable,
    Head,
    InstancesHead,
    MultilabelHead,
    RegressionHead,
    SegmentationHead,
)
from visiontune.models.heads.base import Raw
from visiontune.models.heads.embedding import EmbeddingHead
from visiontune.models.heads.interfaces import require

SMALL = {
    "fcos": {"channels": 64, "convs": 1},
    "retinanet": {"channels": 64, "convs": 1},
    "faster_rcnn": {"channels": 32, "hidden": 64, "samples": 32, "proposals": 50},
}


def detection(kind: str = "fcos", seed: int = 0, **options: Any) -> tuple[Backbone, DetectionHead]:
    torch.manual_seed(seed)
    backbone, _ = build("small_cnn", widths=[8, 16, 32, 32], norm="group")
    whole: dict[str, Any] = SMALL["faster_rcnn" if kind == "instances" else kind] | options
    if kind == "instances":
        return backbone, InstancesHead(backbone.shape, INSTANCES, **whole)
    return backbone, DetectionHead(backbone.shape, DETECTION, kind, **whole)


MAKE: dict[str, Callable[[Backbone], Head]] = {
    "classification": lambda b: ClassificationHead(b.shape, TaskInfo("classification", CLASSES)),
    "multilabel": lambda b: MultilabelHead(b.shape, TaskInfo("multilabel", CLASSES[1:])),
    "regression": lambda b: RegressionHead(b.shape, TaskInfo("regression", ["red", "green"])),
    "segmentation": lambda b: SegmentationHead(b.shape, TaskInfo("segmentation", CLASSES), channels=16),
    "dense": lambda b: DenseHead(b.shape, TaskInfo("dense", ["r", "g", "b"]), channels=16, detail=8),
}


def pair(kind: str, seed: int = 0) -> tuple[Backbone, Any]:
    if kind not in MAKE:
        return detection(kind, seed)
    backbone = tiny()
    torch.manual_seed(seed)
    return backbone, MAKE[kind](backbone)


# ---- the numbers


def test_classes_are_apart_by_the_softened_divergence() -> None:
    _, head = pair("classification")
    own, given = torch.randn(5, 4), torch.randn(5, 4)
    p, q = (given / 3).softmax(1), (own / 3).softmax(1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(head.distill({"logits": own}, head, {"logits": given}, 3.0), expected)
    # As Hinton's, its gradient is near that of squared logits (centred) where the temperature is high.
    own.requires_grad_()
    (gradient,) = torch.autograd.grad(head.distill({"logits": own}, head, {"logits": given}, 1000.0), own)
    off = (own - own.mean(1, keepdim=True)) - (given - given.mean(1, keepdim=True))
    torch.testing.assert_close(gradient, off.detach() / 4 / 5, rtol=0.01, atol=1e-4)


def test_labels_are_apart_each_by_its_own_divergence() -> None:
    _, head = pair("multilabel")
    own, given = torch.randn(5, 3), torch.randn(5, 3)
    p, q = (given / 2).sigmoid(), (own / 2).sigmoid()
    expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(head.distill({"logits": own}, head, {"logits": given}, 2.0), expected)


def test_values_are_compared_in_the_users_units() -> None:
    _, student = pair("regression")
    _, teacher = pair("regression", seed=1)
    teacher.fit_targets([torch.tensor([0.0, 10.0]), torch.tensor([4.0, 30.0])])  # 2 and 20, spread 2 and 10
    student.fit_targets([torch.tensor([1.0, 0.0]), torch.tensor([3.0, 8.0])])  # 2 and 4, spread 1 and 4
    found = student.distill({"values": torch.zeros(1, 2)}, teacher, {"values": torch.tensor([[1.0, -2.0]])}, 1.0)
    assert float(found) == pytest.approx(((4 - 2) ** 2 + ((0 - 4) / 4) ** 2) / 2)


def test_maps_of_another_size_are_brought_to_the_students() -> None:
    _, head = pair("segmentation")
    given = torch.randn(2, 4, 8, 8)
    own = F.interpolate(given, (16, 16), mode="bilinear")
    assert float(head.distill({"logits": own}, head, {"logits": given}, 4.0)) == pytest.approx(0.0, abs=1e-6)
    _, dense = pair("dense")
    other = DenseHead(tiny().shape, TaskInfo("dense", ["r", "g", "b"]), channels=16, detail=8, range=[0, 4])
    flat = torch.full((1, 3, 8, 8), 0.5)  # the teacher's 2.0, of which a range to 1.0 makes 2.0 of its units
    found = dense.distill({"image": torch.zeros(1, 3, 16, 16)}, other, {"image": flat}, 1.0)
    assert float(found) == pytest.approx(2.0)


# ---- any head


@pytest.mark.parametrize("kind", [*MAKE, *SMALL, "instances"])
def test_a_teacher_that_says_the_same_has_nothing_to_teach(kind: str) -> None:
    backbone, head = pair(kind)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    images = drawn(2)[0]
    raw = head(backbone(images))
    found = head.distill(raw, head, {name: _detached(value) for name, value in raw.items()}, 4.0)
    assert found.ndim == 0 and abs(float(found.detach())) < 1e-5
    gradients = torch.autograd.grad(found, list(head.parameters()), allow_unused=True)
    assert max(float(g.abs().max()) for g in gradients if g is not None) < 1e-4
    _, other = pair(kind, seed=1)
    assert float(head.distill(raw, other, other(backbone(images)), 4.0).detach()) > 1e-6


@pytest.mark.parametrize("kind", MAKE)
def test_a_head_learns_from_the_teacher_alone(kind: str) -> None:
    backbone, student = pair(kind)
    _, teacher = pair(kind, seed=1)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    first, last = distill_steps(backbone, student, backbone, teacher, scenes(4, side=32)[0], 60)
    assert last < (0.6 if kind == "dense" else 0.3) * first


@pytest.mark.parametrize("kind", mostly_slow([*SMALL, "instances"]))
def test_a_detector_learns_from_the_teacher_alone(kind: str) -> None:
    """The student never sees a label; its boxes become the teacher's own."""
    images, targets = drawn(4)
    backbone, teacher = detection(kind)
    learn(backbone, teacher, lambda head, raw: total(head.loss(raw, targets)), images, 70)
    own, student = detection(kind, seed=1)
    if kind in ("faster_rcnn", "instances"):  # proposals are learned from labels alone
        own.load_state_dict(backbone.state_dict())
        student.detector.pyramid.load_state_dict(teacher.detector.pyramid.state_dict())
        student.detector.rpn.load_state_dict(teacher.detector.rpn.state_dict())
    distill_steps(own, student, backbone, teacher, images, 70)
    frames = [Frame.whole(64, 64)] * 4
    with torch.no_grad():
        wanted = teacher.decode(teacher(backbone(images)), frames)
        found = student.decode(student(own(images)), frames)
    truth = [{**sure(one), "crowd": torch.zeros(len(sure(one)["labels"]), dtype=torch.bool)} for one in wanted]
    assert sum(len(one["labels"]) for one in truth) >= 4
    metrics = student.metrics()
    metrics.update(found, truth)
    assert float(metrics.compute()["map_50"]) > 0.9


def test_detectors_that_cannot_be_compared() -> None:
    images = drawn(1)[0]
    backbone, fcos = detection("fcos")
    raw = fcos(backbone(images))
    for kind, said in (("retinanet", "its anchors differ"), ("faster_rcnn", "is a faster_rcnn")):
        _, other = detection(kind)
        with pytest.raises(UserError, match=said):
            fcos.distill(raw, other, other(backbone(images)), 1.0)
    large = F.interpolate(images, (96, 96))
    with pytest.raises(UserError, match=r"write the teacher's data\.image_size"):
        fcos.distill(raw, fcos, fcos(backbone(large)), 1.0)


@pytest.mark.parametrize("kind", ["faster_rcnn", "instances"])
def test_a_two_stage_teacher_may_see_larger_images(kind: str) -> None:
    images = drawn(2)[0]
    backbone, head = detection(kind)
    larger = head(backbone(F.interpolate(images, (128, 128), mode="bilinear")))
    assert math.isfinite(float(head.distill(head(backbone(images)), head, larger, 2.0).detach()))


def test_a_head_that_is_not_distillable_is_refused() -> None:
    head = ClassificationHead(tiny().shape, TaskInfo("classification", CLASSES))
    assert require({"classification": head}, Distillable, "distill.teacher")["classification"] is head

    class Plain(EmbeddingHead):
        forward = loss = sample_loss = graph = metrics = EmbeddingHead.decode

    plain = Plain(tiny().shape, 2, 0.0, None)
    with pytest.raises(
        UserError, match=r"^distill.teacher: the head of a, Plain, is not Distillable; derive it .* distill$"
    ):
        require({"a": plain}, Distillable, "distill.teacher")


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def sure(prediction: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[prediction["scores"] > 0.5] for name, value in prediction.items()}


def learn(backbone: Backbone, head: Any, loss: Callable[[Any, Raw], Tensor], images: Tensor, steps: int) -> list[float]:
    model = nn.ModuleList([backbone, head]).train()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(head, head(backbone(images)))
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
        schedule.step()
        values.append(float(value.detach()))
    model.eval()
    return values


def distill_steps(
    own: Backbone, student: Any, other: Backbone, teacher: Any, images: Tensor, steps: int
) -> tuple[float, float]:
    """The loss at the first and the last step of learning from `teacher` on `other` alone."""
    nn.ModuleList([other, teacher]).eval()
    with torch.no_grad():
        given = teacher(other(images))
    if own is other:  # the teacher's features are to stay
        own.requires_grad_(False)
    values = learn(own, student, lambda head, raw: head.distill(raw, teacher, given, 2.0), images, steps)
    return values[0], values[-1]
