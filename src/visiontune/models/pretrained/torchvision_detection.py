"""The names of tensors in torchvision's detectors, and in a FineTuner with the same detector."""

import re
from collections.abc import Mapping

from torch import Tensor

# Older files have other names than the models of today, which torchvision converts in `_load_from_state_dict`.
OLD = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
)
NAMES = (
    (r"^backbone\.body\.(?=\d)", "backbone.model.features."),  # a MobileNet's blocks
    (r"^backbone\.body\.", "backbone.model."),
    (r"^backbone\.fpn\.extra_blocks\.", "{detector}.pyramid.extra."),
    (r"^backbone\.fpn\.", "{detector}.pyramid.top_down."),
    (r"^rpn\.", "{detector}.rpn."),
    (r"^roi_heads\.", "{detector}.roi."),
    (r"^head\.", "{detector}.model.head."),
)


def rename_detector(state: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """The tensors of torchvision's FCOS, RetinaNet, Faster R-CNN or Mask R-CNN under the names of a FineTuner.

    Args:
        task: of the head, "detection" or "instances".
    """
    fcos = any(".bbox_ctrness." in key for key in state)
    return {_rename(_update(key, fcos), task): value for key, value in state.items()}


def _update(key: str, fcos: bool) -> str:
    """The name in torchvision's models of today."""
    for pattern, name in OLD:
        key = re.sub(pattern, name, key)
    if match := re.match(r"roi_heads\.mask_head\.mask_fcn(\d+)\.(.+)", key):
        return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    # Of a RetinaNet; a ReLU was between the convolutions. An FCOS has such names today.
    if not fcos and (match := re.match(r"(head\.\w+_head\.conv)\.(\d+)\.(weight|bias)$", key)):
        return f"{match[1]}.{int(match[2]) // 2}.0.{match[3]}"
    return key


def _rename(key: str, task: str) -> str:
    for pattern, name in NAMES:
        if re.match(pattern, key):
            return re.sub(pattern, name.format(detector=f"heads.{task}.detector"), key)
    return key
