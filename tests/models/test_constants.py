"""Parameters that a library does not train stay constant: they are buffers, with the same keys in checkpoints."""

from typing import Any

import torch
from torch import nn
from transformers import DFineConfig
from transformers.models.d_fine.modeling_d_fine import DFineDecoder

from visiontune.models.constants import turn_constants_into_buffers


def test_constants_become_buffers_also_shared_ones() -> None:
    module: Any = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].bias.requires_grad_(False)
    module[1].bias = module[0].bias
    state = {key: value.clone() for key, value in module.state_dict().items()}
    turn_constants_into_buffers(module)
    assert [name for name, _ in module.named_parameters()] == ["0.weight", "1.weight"]
    assert module[0].bias is module[1].bias and isinstance(module[0].bias, torch.Tensor)
    assert module.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    module(torch.rand(1, 2)).sum().backward()


def test_the_constants_of_a_d_fine() -> None:
    decoder: Any = DFineDecoder(DFineConfig(decoder_layers=1, d_model=16, decoder_ffn_dim=8, decoder_attention_heads=2))
    parameters = {name for name, _ in decoder.named_parameters()}
    turn_constants_into_buffers(decoder)
    assert parameters - {name for name, _ in decoder.named_parameters()} == {"reg_scale", "up"}
    assert float(decoder.reg_scale) == 4.0 and float(decoder.up) == 0.5
