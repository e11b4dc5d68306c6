"""The tensors of EoMT of transformers under the names of a FineTuner."""

import re
from collections.abc import Mapping

from torch import Tensor

DECODER = "heads.segmentation.decoder.network."
CONSTANT = "criterion.empty_weight"  # it follows from the options


def rename_eomt(state: Mapping[str, Tensor], first: int) -> dict[str, Tensor]:
    """
    Args:
        first: the first block that sees the queries, which belongs to the head like all later ones.
    """
    renamed = {}
    for name, value in state.items():
        if layer := re.match(r"layers\.(\d+)\.", name):
            number, rest = int(layer[1]), name[layer.end() :]
            part, number = ("backbone.model.", number) if number < first else (DECODER, number - first)
            renamed[f"{part}layers.{number}.{rest}"] = value
        elif name.startswith("embeddings."):
            renamed[f"backbone.model.{name}"] = value
        elif name != CONSTANT:
            renamed[DECODER + name] = value
    return renamed
