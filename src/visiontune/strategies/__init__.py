"""Strategies: which stages train in which epoch, and at which learning rate."""

from visiontune.strategies.base import Stages, Strategy
from visiontune.strategies.bit_hyperrule import BitHyperRule
from visiontune.strategies.full import Full
from visiontune.strategies.gradual_unfreeze import GradualUnfreeze
from visiontune.strategies.head_only import HeadOnly
from visiontune.strategies.layer_decay import LayerDecay
from visiontune.strategies.linear_probe import LinearProbe
from visiontune.strategies.lora import Lora
from visiontune.strategies.lp_ft import LpFt
from visiontune.strategies.some_parameters import BiasOnly, NormOnly
from visiontune.strategies.some_stages import FirstK, LastK

__all__ = [
    "BiasOnly",
    "BitHyperRule",
    "FirstK",
    "Full",
    "GradualUnfreeze",
    "HeadOnly",
    "LastK",
    "LayerDecay",
    "LinearProbe",
    "Lora",
    "LpFt",
    "NormOnly",
    "Stages",
    "Strategy",
]
