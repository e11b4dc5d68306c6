"""Rows of classes that pretrained weights know are copied bit for bit; others begin with their mean."""

import pytest
import torch
from torchvision.models import get_model_weights

from visiontune.models.heads.class_rows import ClassRows, match_classes, object_entries

COCO = ["__background__", "person", "bicycle", "car", "N/A", "dog", "N/A"]


@pytest.mark.parametrize(
    ("names", "aliases", "expected"),
    [
        (["person", "car", "unicorn"], {}, {0: 1, 1: 3}),
        (["Car", " DOG ", "background"], {}, {0: 3, 1: 5, 2: 0}),
        (["auto", "rider"], {"auto": "car", "Rider": "Person"}, {0: 3, 1: 1}),
        (["person", "dog"], {"dog": None}, {0: 1}),
        (["dog"], {"dog": "car"}, {0: 3}),
        (["N/A", "n/a"], {}, {}),
    ],
)
def test_classes_match_by_name(names: list[str], aliases: dict[str, str | None], expected: dict[int, int]) -> None:
    assert match_classes(names, COCO, aliases) == expected


def test_voc_and_coco_have_other_names_for_some_classes() -> None:
    voc = get_model_weights("lraspp_mobilenet_v3_large").DEFAULT.meta["categories"][1:]
    coco = get_model_weights("fasterrcnn_resnet50_fpn").DEFAULT.meta["categories"]
    matches = match_classes(voc, coco)
    assert len(matches) == len(voc) == 20
    others = {name: coco[matches[i]] for i, name in enumerate(voc) if coco[matches[i]] != name}
    assert others == {
        "aeroplane": "airplane",
        "diningtable": "dining table",
        "motorbike": "motorcycle",
        "pottedplant": "potted plant",
        "sofa": "couch",
        "tvmonitor": "tv",
    }
    assert match_classes(["couch", "TV", "lamp"], voc, {"lamp": "Dining table"}) == {0: 17, 1: 19, 2: 10}


@pytest.mark.parametrize(
    ("layout", "classes", "matches"),
    [
        (ClassRows(), 4, {0: 1, 2: 6}),  # a linear layer or the maps of an FCOS
        (ClassRows(offset=1), 3, {1: 3}),  # scores with a background
        (ClassRows(per_class=4, offset=1), 2, {0: 5, 1: 1}),  # four numbers of a box for each class
        (ClassRows(groups=3), 2, {1: 4}),  # scores of three anchors
        (ClassRows(per_class=2, groups=3, offset=2), 3, {2: 6}),
        (ClassRows(offset=1), 3, {}),
    ],
)
@pytest.mark.parametrize("shape", [(), (5,), (5, 1, 1)])
def test_rows_are_copied(layout: ClassRows, classes: int, matches: dict[int, int], shape: tuple[int, ...]) -> None:
    """Each row against the index that the class documents."""
    groups, per_class, offset = layout.groups, layout.per_class, layout.offset
    source = torch.randn(groups * 7 * per_class, *shape)
    target = torch.randn(groups * (offset + classes) * per_class, *shape)
    before = target.clone()
    merged = layout.copy(source, target, 7, matches)
    assert merged is not None
    expected = before.clone()
    for group in range(groups):
        old_entries = dict(enumerate(range(offset))) | {offset + index: entry for index, entry in matches.items()}
        for new, old in old_entries.items():
            for row in range(per_class):
                index = (group * (offset + classes) + new) * per_class + row
                expected[index] = source[(group * 7 + old) * per_class + row]
    assert torch.equal(merged, expected)
    assert torch.equal(target, before)


@pytest.mark.parametrize("average", [True, False])
def test_other_classes_begin_with_the_mean(average: bool) -> None:
    """In each group, and for each row of a class; not of the background and of numbers without a class."""
    layout = ClassRows(per_class=4, groups=2, offset=1, after=1, average=average)
    source, target = torch.randn(2 * 8 * 4, 5), torch.randn(2 * 4 * 4, 5)
    known = object_entries(COCO)
    assert known == [1, 2, 3, 5]
    merged = layout.copy(source, target, 7, {1: 3}, known)
    assert merged is not None
    old, initial, new = (tensor.view(2, -1, 4, 5) for tensor in (source, target, merged))
    mean = old[:, [1, 2, 3, 5]].mean(1) if average else initial[:, 1]
    expected = torch.stack([old[:, 0], mean, old[:, 3], old[:, 7]], 1)
    assert torch.equal(new, expected)


def test_other_layouts_are_not_copied() -> None:
    target = torch.zeros(3, 5)
    assert ClassRows().copy(torch.ones(7, 5), target, 6, {}) is None  # another number of classes
    assert ClassRows().copy(torch.ones(7, 4), target, 7, {}) is None  # another width
    assert ClassRows().copy(torch.tensor(1.0), target, 7, {}) is None
    conv = torch.randn(7, 5, 3, 3).contiguous(memory_format=torch.channels_last)
    merged = ClassRows().copy(conv, torch.zeros(2, 5, 3, 3), 7, {1: 6})
    assert merged is not None
    assert torch.equal(merged[1], conv[6]) and merged[0].count_nonzero() == 0
