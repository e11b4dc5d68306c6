"""What keeps these tests short: networks with random weights are slow to build where truncated normals are drawn
exactly, and images this small are slower on many threads than on one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="package", autouse=True)
def short() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def normal(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *_: object, **__: object) -> Tensor:
        return torch.nn.init.normal_(tensor, mean, std)

    patch = pytest.MonkeyPatch()
    patch.setattr(torch.nn.init, "trunc_normal_", normal)
    yield
    patch.undo()
    torch.set_num_threads(threads)
