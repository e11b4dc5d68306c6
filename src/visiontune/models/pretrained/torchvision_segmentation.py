"""torchvision's FCN, DeepLabV3 and LR-ASPP: the names of their tensors in a FineTuner."""

import re
from collections.abc import Mapping

from torch import Tensor

# In torchvision's segmenters the backbone of a MobileNet is its `features`. Our decoders and our auxiliary classifier
# have a dropout in front of the last convolution.
RULES = (
    (r"backbone\.(?=\d)", "backbone.model.features."),
    (r"backbone\.", "backbone.model."),
    (r"classifier\.(4|high_classifier)\.", r"heads.{task}.decoder.layers.\1.1."),
    (r"classifier\.", "heads.{task}.decoder.layers."),
    (r"aux_classifier\.4\.", "heads.{task}.auxiliary.4.1."),
    (r"aux_classifier\.", "heads.{task}.auxiliary."),
)


def rename_segmenter(state: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """The tensors under the names of a FineTuner with a segmentation head.

    Args:
        state: the state dict of a model of `torchvision.models.segmentation`.
        task: the key of the head.
    """
    return {_rename(key, task): value for key, value in state.items()}


def _rename(key: str, task: str) -> str:
    for pattern, replacement in RULES:
        if re.match(pattern, key):
            return re.sub(rf"^{pattern}", replacement.format(task=task), key)
    return key
