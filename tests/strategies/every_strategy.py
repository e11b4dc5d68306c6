"""Each strategy, with options for small networks."""

from functools import partial
from typing import Any

from visiontune.strategies import (
    BiasOnly,
    FirstK,
    Full,
    GradualUnfreeze,
    HeadOnly,
    LastK,
    LayerDecay,
    LinearProbe,
    Lora,
    LpFt,
    NormOnly,
)

STRATEGIES: dict[str, Any] = {
    "linear_probe": LinearProbe,
    "head_only": HeadOnly,
    "full": Full,
    "gradual_unfreeze": partial(GradualUnfreeze, unfrozen_by=0.8),
    "lp_ft": partial(LpFt, probe_epochs=0.5),
    "last_k": partial(LastK, k=1),
    "first_k": partial(FirstK, k=1),
    "layer_decay": LayerDecay,
    "norm_only": NormOnly,
    "bias_only": BiasOnly,
    "lora": partial(Lora, rank=2),
}
