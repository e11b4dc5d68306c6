"""Tensors with rows for each class, and copying the rows of classes that pretrained weights know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visiontune.errors import some

SHOWN = 10  # classes in a line of the report
NO_CLASS = "n/a"  # torchvision's name for numbers that COCO does not use
BACKGROUND = "background"
# Pascal VOC's names of classes that COCO has too.
COCO_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


@dataclass(frozen=True)
class ClassRows:
    """The layout of the first dimension of a tensor: `groups` blocks of `offset` + classes + `after` entries.

    Row ``r`` of class ``c`` in group ``g`` is at ``(g * (offset + classes + after) + offset + c) * per_class + r``.

    Attributes:
        per_class: consecutive rows of one class, such as the four numbers of a box.
        groups: blocks one after another, such as one per anchor of a cell.
        offset: entries before the first class, such as one for the background; they are kept.
        after: entries after the last class, such as one for no object; they are kept.
        average: whether a class that the source does not know begins with the mean of the known classes. If False, the
            row of `target` stays, since embeddings of labels must differ between classes.
    """

    per_class: int = 1
    groups: int = 1
    offset: int = 0
    after: int = 0
    average: bool = True

    def copy(
        self, source: Tensor, target: Tensor, entries: int, matches: Mapping[int, int], known: Sequence[int] = ()
    ) -> Tensor | None:
        """`target` with the rows of some classes, and the entries before and after the classes, from `source`.

        The other layers of a trained head suit the scale of its class rows: random rows would give confident, wrong
        scores. So the other classes begin with the mean over `known` classes, which scores "some object".

        Args:
            source: the pretrained tensor.
            target: the tensor of the new classes; not changed.
            entries: number of entries in each group of `source`, those before the first class included, those after the
                last class not.
            matches: index of a new class -> entry of `source`.
            known: entries of `source` for the mean; without any, or if `average` is False, the rows of `target` stay.

        Returns:
            None if `source` does not have this layout, or differs from `target` in another dimension.
        """
        fits = source.ndim > 0 and source.shape[1:] == target.shape[1:] and entries >= self.offset
        if not fits or len(source) != self.groups * (entries + self.after) * self.per_class:
            return None
        merged = target.clone(memory_format=torch.contiguous_format)
        shape = (self.groups, -1, self.per_class, *target.shape[1:])
        new, old = merged.view(shape), source.to(target).reshape(shape)
        if self.average and known:
            new[:] = old[:, list(known)].mean(1, keepdim=True)
        new[:, : self.offset] = old[:, : self.offset]
        if self.after:
            new[:, -self.after :] = old[:, -self.after :]
        for index, entry in matches.items():
            new[:, self.offset + index] = old[:, entry]
        return merged


def shared_parameters(head: nn.Module, layouts: Mapping[str, ClassRows]) -> list[nn.Parameter]:
    """Parameters of a head that do not depend on classes; none if the head does not know which do.

    Args:
        layouts: the head's `class_rows`.
    """
    return [parameter for name, parameter in head.named_parameters() if name not in layouts] if layouts else []


def match_classes(
    names: Sequence[str], known: Sequence[str], aliases: Mapping[str, str | None] | None = None
) -> dict[int, int]:
    """Index in `known` of each class in `names` that is there, by index in `names`.

    Upper and lower case are equal, and so are Pascal VOC's and COCO's name of a class.

    Args:
        names: the classes of the data.
        known: the classes of pretrained weights, one per entry.
        aliases: class of the data -> its name in `known`; None if it has none.
    """
    entries = {_normalize(name): entry for entry, name in reversed(list(enumerate(known)))}  # the first one wins
    entries.pop(NO_CLASS, None)
    renamed = {_normalize(name): alias and _normalize(alias) for name, alias in (aliases or {}).items()}
    normalized = [renamed.get(_normalize(name), _normalize(name)) for name in names]
    return {index: entries[name] for index, name in enumerate(normalized) if name in entries}


def object_entries(names: Sequence[str]) -> list[int]:
    """Entries of the classes that are neither the background nor a number without a class."""
    return [entry for entry, name in enumerate(names) if _normalize(name) not in (BACKGROUND, NO_CLASS)]


def describe_rows(names: Sequence[str], matches: Mapping[int, int], advice: str = "") -> str:
    """One line of the load report: the classes that keep their rows, and the fresh ones, which begin with the mean.

    Args:
        names: the classes of the data.
        matches: the result of `match_classes`.
        advice: text after the fresh classes; {name} in it is the first of them.
    """
    fresh = [name for index, name in enumerate(names) if index not in matches]
    line = f"kept rows: {_list_names([names[index] for index in sorted(matches)]) or 'none'}"
    return f"{line}; fresh: {_list_names(fresh)}{advice.replace('{name}', fresh[0])}" if fresh else line


def _list_names(names: Sequence[str]) -> str:
    return some(names, SHOWN) + (f" ({len(names)} classes)" if len(names) > SHOWN else "")


def _normalize(name: str) -> str:
    """Upper and lower case are equal, and torchvision writes `__background__`."""
    plain = name.strip().casefold().removeprefix("__").removesuffix("__")
    return COCO_NAMES.get(plain, plain)
