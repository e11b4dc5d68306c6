"""Which objects are left after a transform, and which targets take part in which step."""

from collections.abc import Callable

import pytest
import torch
from drawn_targets import rectangles
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from visiontune.data.mixing import BatchMixer
from visiontune.data.schema import Sample, TaskInfo
from visiontune.data.splits import strata
from visiontune.data.target_kinds import KINDS, TargetKind, steps_after, steps_before
from visiontune.data.target_transforms import ImageOnly, KeepWhole, Measure, RecolorTargets, Tidy
from visiontune.data.targets import objects
from visiontune.errors import UserError

SIZE = (50, 100)


def tidied(boxes: list[list[float]], min_visible: float = 0.0, **more: torch.Tensor) -> dict:
    image = tv_tensors.Image(torch.zeros(3, *SIZE, dtype=torch.uint8))
    target = objects(boxes, range(len(boxes)), SIZE, crowd=[i % 2 == 0 for i in range(len(boxes))], **more)
    before_it = {key: value.clone() for key, value in target.items()}
    _, targets = Tidy(min_visible)(image, {"task": target, "other": 3, "none": None})
    assert all(torch.equal(value, before_it[key]) for key, value in target.items())  # nobody else's is changed
    assert targets["other"] == 3 and targets["none"] is None
    return targets["task"]


def test_boxes_are_cut_at_the_edge_and_dropped_with_all_that_belongs_to_them() -> None:
    boxes = [[-10.0, 10, 20, 30], [95, 40, 120, 70], [10, -20, 30, 0.5], [99.5, 0, 140, 50], [0, 0, 100, 50]]
    found = tidied(boxes)
    assert found["boxes"].tolist() == [[0, 10, 20, 30], [95, 40, 100, 50], [0, 0, 100, 50]]
    assert found["labels"].tolist() == [0, 1, 4] and found["crowd"].tolist() == [True, False, True]
    assert isinstance(found["boxes"], tv_tensors.BoundingBoxes) and found["boxes"].canvas_size == SIZE
    # 2/3 of the first is left, 1/5 * 1/3 of the second.
    assert tidied(boxes, 0.5)["labels"].tolist() == [0, 4]
    assert tidied(boxes, 0.7)["labels"].tolist() == [4]


def test_boxes_fit_their_masks_and_objects_without_a_pixel_are_gone() -> None:
    masks = torch.zeros(3, *SIZE, dtype=torch.uint8)
    masks[0, 12:25, 30:42] = 1
    masks[2, 40:41, 99:100] = 1
    found = tidied([[20.0, 5, 60, 40], [0, 0, 50, 50], [90, 30, 100, 50]], masks=masks)
    assert found["boxes"].tolist() == [[30, 12, 42, 25], [99, 40, 100, 41]]
    assert found["labels"].tolist() == [0, 2] and found["crowd"].tolist() == [True, True]
    assert isinstance(found["masks"], tv_tensors.Mask) and torch.equal(found["masks"], masks[[0, 2]])


def test_what_an_earlier_step_cut_off_counts_as_gone() -> None:
    """Cut in half, then in half again: a quarter is left, whatever the second step saw."""
    image, targets = tv_tensors.Image(torch.zeros(3, *SIZE)), {"task": objects([[10.0, 10, 50, 30]], [0], SIZE)}
    image, targets = KeepWhole()(image, targets)
    for width in (30, 20):
        image, targets = (
            F.crop(image, 0, 0, 50, width),
            {"task": {k: crop(v, width) for k, v in targets["task"].items()}},
        )
    assert targets["task"]["boxes"].tolist() == [[10, 10, 20, 30]]
    for share, left in ((0.2, 1), (0.3, 0)):
        found = Tidy(share)(image, targets)[1]["task"]
        assert len(found["boxes"]) == len(found["labels"]) == left and set(found) == {"boxes", "labels", "crowd"}


def crop(value: torch.Tensor, width: int) -> torch.Tensor:
    return F.crop(value, 0, 0, 50, width) if isinstance(value, tv_tensors.BoundingBoxes) else value


@pytest.mark.parametrize("masks", [None, torch.zeros(0, *SIZE, dtype=torch.uint8)])
def test_no_objects_stay_no_objects(masks: torch.Tensor | None) -> None:
    found = tidied([], 0.5, **({} if masks is None else {"masks": masks}))
    assert found["boxes"].shape == (0, 4) and found["labels"].dtype == torch.int64
    assert masks is None or found["masks"].shape == (0, *SIZE)


def steps(build: Callable[..., list[v2.Transform]], *kinds: str) -> list[type]:
    return [type(step) for step in build([KINDS[kind] for kind in kinds])]


def test_steps_are_added_for_the_kinds_that_need_them_and_once() -> None:
    assert steps(steps_before, "classification", "segmentation") == [] == steps(steps_after, "multilabel", "dense")
    assert steps(steps_before, "detection", "dense", "instances") == [KeepWhole, Measure]
    assert steps(steps_after, "instances", "detection") == [Tidy]
    assert steps(steps_before, "instances") == [KeepWhole] and steps(steps_before, "regression") == []


def test_a_kind_of_ones_own_is_a_plain_value_until_it_has_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rank(TargetKind):
        name = "rank"
        names_classes = single_label = True

        def labels(self, target: int) -> list[int]:
            return [target]

    info = TaskInfo("rank", ["low", "high"])
    assert info.labels(1) == [] and not info.target_kind.has_geometry and info.target_kind.convert(1, (4, 4)) == 1
    monkeypatch.setitem(KINDS, "rank", Rank())
    samples = [Sample(str(i), {"how": i % 2}, content=str(i)) for i in range(6)]
    assert strata(samples, {"how": info}) == {str(i): i % 2 for i in range(6)}
    with pytest.raises(UserError, match=r"cannot mix the targets of how \(rank\)"):
        BatchMixer({"how": info}, 0.2, 0.0, seed=0)


def test_colours_reach_pictures_of_the_same_kind_and_no_measurements() -> None:
    image, targets = rectangles()
    targets["grey"] = tv_tensors.Image(torch.full((1, 60, 100), 90, dtype=torch.uint8))
    invert = v2.RandomInvert(p=1.0)
    changed, found = RecolorTargets(invert)(image, targets)
    assert torch.equal(changed, 255 - image) and torch.equal(found["clean"], changed)
    assert found["depth"] is targets["depth"] and torch.equal(found["grey"], targets["grey"])
    assert torch.equal(found["segmentation"], targets["segmentation"])
    changed, found = ImageOnly(invert)(image, targets)
    assert torch.equal(changed, 255 - image) and found is targets
    for step in (RecolorTargets(invert), ImageOnly(invert)):
        assert torch.equal(step(image), 255 - image)
    assert Tidy()(image) is image and Measure()(image) is image and KeepWhole()(image) is image
