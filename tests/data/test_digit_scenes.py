"""The embedded scenes: what is drawn is what the targets say, for every task, and no digit is in two splits."""

import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision import tv_tensors

from visiontune.data.readers import digit_scenes, scenes
from visiontune.data.readers.digit_scenes import SceneLabels, SceneObjects, read
from visiontune.data.readers.scenes import HEIGHTS, MOST, TEXTURES, compose
from visiontune.data.schema import Sample, Source
from visiontune.data.targets import LabelMap, is_stored
from visiontune.errors import UserError

SIZE = (96, 96)


@pytest.fixture(scope="module")
def source() -> Source:
    return read(scenes=120)


def objects_of(sample: Sample) -> dict[str, torch.Tensor]:
    return sample.targets["instances"].load(SIZE)


def test_every_kind_of_task_has_a_target_in_every_scene(source: Source) -> None:
    assert {task: (info.kind, len(info.classes)) for task, info in source.schema.items()} == {
        "classification": ("classification", 4),
        "multilabel": ("multilabel", 10),
        "regression": ("regression", 1),
        "segmentation": ("segmentation", 11),
        "detection": ("detection", 10),
        "instances": ("instances", 10),
        "dense": ("dense", 3),
    }
    assert [sum(s.split == split for s in source.samples) for split in ("train", "val", "test")] == [96, 12, 12]
    for sample in source.samples:
        assert set(sample.targets) == set(source.schema)
        assert sample.image is not None and sample.image.shape == (3, *SIZE) and sample.image.dtype == torch.uint8
    assert {sample.targets["classification"] for sample in source.samples} == set(range(len(TEXTURES)))
    counts = [int(sample.targets["regression"]) for sample in source.samples]
    assert set(counts) == set(range(1, MOST + 1)) and min(map(counts.count, set(counts))) >= 12


def test_the_targets_of_a_scene_say_the_same(source: Source) -> None:
    for sample in source.samples:
        found, boxes = objects_of(sample), sample.targets["detection"].load(SIZE)
        labels = sample.targets["segmentation"].load(SIZE)
        assert isinstance(labels, LabelMap) and labels.dtype == torch.uint8 and labels.shape == SIZE
        masks = found["masks"]
        assert isinstance(masks, tv_tensors.Mask) and int(masks.sum(0).max()) == 1  # what is seen, seen once
        drawn = ((found["labels"] + 1)[:, None, None] * masks).sum(0)
        assert torch.equal(drawn, labels.as_subclass(torch.Tensor).long())
        assert "masks" not in boxes and torch.equal(boxes["boxes"], found["boxes"])
        for mask, box in zip(masks, found["boxes"].tolist(), strict=True):
            ys, xs = torch.where(mask > 0)
            assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert sample.targets["multilabel"].nonzero().flatten().tolist() == sorted(set(found["labels"].tolist()))
        assert sample.targets["regression"].tolist() == [len(found["labels"])]
        for task, listed in (("instances", found["labels"].tolist()), ("segmentation", labels.unique().tolist())):
            assert is_stored(sample.targets[task]) and list(sample.targets[task].labels) == listed


def test_digits_differ_in_size_overlap_and_stand_out(source: Source) -> None:
    boxes = torch.cat([objects_of(sample)["boxes"].as_subclass(torch.Tensor) for sample in source.samples])
    heights = boxes[:, 3] - boxes[:, 1]
    assert float(heights.quantile(0.1)) < 18 and float(heights.quantile(0.9)) > 27
    assert float(heights.max()) < 1.25 * HEIGHTS[1]
    overlapping = contrast = 0
    for sample in source.samples:
        found = objects_of(sample)
        covered = torch.zeros(SIZE, dtype=torch.int64)
        for left, top, right, bottom in found["boxes"].int().tolist():
            covered[top:bottom, left:right] += 1
        overlapping += bool((covered > 1).any())
        clean = sample.targets["dense"].float().mean(0)
        contrast += float((clean[found["masks"][-1] > 0].mean() - clean[found["masks"].sum(0) == 0].mean()).abs()) > 30
    assert 20 <= overlapping <= 80 and contrast >= 110


def test_of_every_digit_enough_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever all digits found a place, each shows 30% of the pixels that it was drawn with, or more."""
    bunch, shares, areas, real = load_digits(), [], [], scenes._ink

    def look(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
        ink = real(rng, image)
        areas.append(int((ink >= 0.5).sum()))
        return ink

    monkeypatch.setattr(scenes, "_ink", look)
    for seed in range(60):
        areas.clear()
        scene = compose(np.random.default_rng(seed), bunch.images / 16, bunch.target, 64)
        if len(areas) == len(scene.labels):
            shares += [int((scene.owner == i + 1).sum()) / area for i, area in enumerate(areas)]
    assert len(shares) > 100 and 0.3 <= min(shares) < 0.7 and max(shares) == 1.0


def test_the_noise_is_what_the_dense_task_takes_out(source: Source) -> None:
    noisy = torch.stack([sample.image for sample in source.samples if sample.image is not None]).float() / 255
    clean = torch.stack([sample.targets["dense"].as_subclass(torch.Tensor) for sample in source.samples]).float() / 255
    assert -10 * float((noisy - clean).square().mean().log10()) == pytest.approx(20.2, abs=0.3)
    still = read(scenes=20, noise=0.0).samples[0]
    assert still.image is not None and torch.equal(still.image, still.targets["dense"].as_subclass(torch.Tensor))


def test_no_digit_is_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[set[bytes]] = []

    def look(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, size: int) -> object:
        used.append({image.tobytes() for image in images})
        return compose(rng, images, labels, size)

    monkeypatch.setattr(digit_scenes, "compose", look)
    splits = [sample.split for sample in read(scenes=20).samples]
    train, val, test = (used[splits.index(split)] for split in ("train", "val", "test"))
    assert not train & val and not train & test and not val & test
    assert sum(map(len, (train, val, test))) > 1700


def test_scenes_follow_from_their_seed_and_number_alone(source: Source) -> None:
    """Whatever torch and numpy have drawn before, and however many scenes are asked for."""
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    fewer = {sample.path: sample for sample in read(scenes=40).samples}
    assert torch.equal(torch.get_rng_state(), state) and np.random.get_state()[1].tolist() == numpy_state
    more = {sample.path: sample for sample in source.samples}
    assert len(fewer.keys() & more.keys()) == 40
    for path, sample in fewer.items():
        assert torch.equal(sample.image, more[path].image) and sample.split == more[path].split
        assert sample.targets["detection"].labels == more[path].targets["detection"].labels
    other = read(scenes=40, scene_seed=1).samples[0]
    assert not torch.equal(other.image, more[other.path].image)


@pytest.mark.slow
def test_the_whole_set_is_made_in_seconds_and_kept_small() -> None:
    started = time.process_time()
    samples = read().samples
    assert len(samples) == 1000 and time.process_time() - started < 5  # 1.7 s on a slow core
    for sample in samples[:5]:
        assert isinstance(sample.targets["segmentation"], SceneLabels)
        assert isinstance(sample.targets["instances"], SceneObjects)
        assert sample.targets["instances"].owner.nbytes == 96 * 96


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenes": 5}, "data.scenes=5: write 20 or more"),
        ({"scene_size": 32}, "data.scene_size=32: write 64 or more"),
        ({"scene_seed": -1}, "data.scene_seed=-1: write 0 or more"),
        ({"noise": 25}, "data.noise=25: write a number from 0 to 1"),
        ({"noise": "much"}, "data.noise=much: write a number from 0 to 1"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(**arguments)
