"""Training with simulated 8-bit rounding."""

from importlib.util import find_spec
from itertools import chain
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from visiontune.errors import UserError, first_line
from visiontune.models.backbones import Backbone
from visiontune.models.features import Features
from visiontune.runs.log import log

aten = torch.ops.aten
WEIGHTED = (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input, aten.linear.default)


class QuantizationAware(L.Callback):
    """Fake-quantizes a backbone's weights and activations in training, as the step `int8` will quantize them.

    Gradients pass through the rounding unchanged (Jacob et al. 2018, https://arxiv.org/abs/1712.05877). torchao's PT2E
    flow inserts the rounding into a copy of the graph that shares the network's parameters. The network that is
    trained, averaged and saved is the ordinary one in floats, which `int8` quantizes later. Validations during the
    training evaluate the fake-quantized backbone; heads stay in floats.

    As in evaluation, BatchNorm statistics are fixed and the backbone applies no dropout.

    Args:
        images: number of training images, without augmentation, that initialize the ranges of the activations; every
            step updates them.
        reduce_range: quantize weights to 7 bits, as `int8` does for processors without VNNI.

    Raises:
        UserError: torchao is missing, the backbone cannot be exported, or the run has several ranks, half precision,
            `compile`, a cache of frozen features or `strategy.batchnorm=train`.
    """

    def __init__(self, images: int = 128, reduce_range: bool = False) -> None:
        if find_spec("torchao") is None:
            raise UserError(
                "QuantizationAware needs torchao, an extra of this package: pip install 'visiontune[compress]'"
            )
        if images < 1:
            raise UserError(f"callbacks.quantization_aware.images={images}: write 1 or more, such as 128")
        self.images, self.reduce_range = images, reduce_range
        self.quantized: FakeQuantized | None = None
        self.saved_ranges: dict[str, dict[str, Tensor]] = {}  # from a checkpoint

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        for is_wrong, override in (
            (trainer.world_size > 1, "trainer.devices=1"),  # the ranges would differ between ranks
            (trainer.precision != "32-true", "trainer.precision=32-true"),
            (pl_module.backbone._compiled_call_impl is not None, "compile=false"),
            (trainer.datamodule.wrap_loader is not None, "frozen_features.cache=none"),
            (pl_module.strategy.batchnorm != "frozen", "strategy.batchnorm=frozen"),
        ):
            if is_wrong:
                raise UserError(f"QuantizationAware needs {override}")

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.quantized = FakeQuantized(pl_module.backbone, trainer.datamodule.image_size, 7 if self.reduce_range else 8)
        pl_module.backbone.features = self.quantized
        log.info(f"fake-quantizes {len(self.quantized.places)} tensors of {pl_module.backbone.name}")
        if trainer.ckpt_path is not None:
            self.quantized.load(self.saved_ranges)
            return
        self.quantized.observe(True)
        with torch.no_grad():
            for batch in trainer.datamodule.eval_loader("train", at_most=self.images):
                image = trainer.datamodule.to_network(move_data_to_device(batch, pl_module.device))["image"]
                pl_module.backbone(image)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert self.quantized is not None
        self.quantized.observe(True)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self.quantized is not None:
            self.quantized.observe(False)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        del pl_module.backbone.features  # restores the method of the class
        self.quantized = None

    def buffers(self) -> list[Tensor]:
        """The ranges, which every step updates in place."""
        places = self.quantized.places.values() if self.quantized else []
        return [buffer for place in places for buffer in place.buffers()]

    def state_dict(self) -> dict[str, Any]:
        return {"ranges": self.quantized.ranges() if self.quantized else self.saved_ranges}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.saved_ranges = state_dict["ranges"]


class FakeQuantized:
    """Computes a backbone's features with rounded inputs and weights of its convolutions and linear layers.

    It is not a module, and shares the parameters and buffers of the backbone. torchao's `prepare_qat_pt2e` would also
    fuse convolutions with BatchNorm, in training mode, with another epsilon, and divide by BatchNorm's weight, which
    gives NaN if a weight is 0. torchao's quantizer for x86 refuses residual blocks of torchvision. Therefore this class
    annotates the graph itself and runs only the part of PT2E after the fusion.

    Args:
        size: (H, W) of the images.
        bits: of a weight, 8 or 7.

    Raises:
        UserError: torch.export cannot follow the backbone.
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], bits: int = 8) -> None:
        from torchao.quantization.pt2e.prepare import prepare

        graph = _export_features(backbone, size)
        for node in graph.graph.nodes:
            if node.target in WEIGHTED:
                node.meta["quantization_annotation"] = _annotate(node.args[0], node.args[1], bits)
        prepared = prepare(graph, {}, is_qat=True).to(backbone.mean.device)
        shared = dict(chain(backbone.named_parameters("backbone"), backbone.named_buffers("backbone")))
        for path, _ in [*prepared.named_parameters(), *prepared.named_buffers()]:
            if path in shared:
                owner, _, name = path.rpartition(".")
                setattr(prepared.get_submodule(owner), name, shared[path])
        self.graph = prepared
        self.places = {name: part for name, part in prepared.named_modules() if hasattr(part, "fake_quant_enabled")}

    def __deepcopy__(self, memo: Any) -> "FakeQuantized":
        return self  # for a validation, the weight average is copied into this network

    def __call__(self, x: Tensor) -> Features:
        maps, embedding = self.graph(x)
        return Features(maps, lambda: embedding)

    def observe(self, on: bool) -> None:
        """Switch updates of the activations' ranges on or off; the ranges of weights are always updated."""
        for place in self.places.values():
            if not place.is_per_channel:
                place.enable_observer(on)

    def ranges(self) -> dict[str, dict[str, Tensor]]:
        """The state of each fake-quantization module, by name."""
        return {name: place.state_dict() for name, place in self.places.items()}

    def load(self, ranges: dict[str, dict[str, Tensor]]) -> None:
        """Restore what `ranges` returned."""
        for name, place in self.places.items():
            place.load_state_dict(ranges[name])


def _export_features(backbone: Backbone, size: tuple[int, int]) -> Any:
    """The graph of a backbone's features in evaluation mode, for batches of any size."""
    image = torch.rand(2, backbone.in_channels, *size).to(backbone.mean)
    modes = {part: part.training for part in backbone.modules()}
    module = _TensorFeatures(backbone).eval()
    try:
        program = torch.export.export(module, (image,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    except Exception as error:  # any error that tracing the network's code may raise
        raise UserError(
            f"torch.export cannot follow {backbone.name} ({first_line(error)}): write recipe=int8, which "
            "quantizes it without training"
        ) from error
    finally:
        for part, training in modes.items():
            part.training = training
    return program.module(check_guards=False)


class _TensorFeatures(nn.Module):
    """A backbone's maps and embedding as plain tensors, which torch.export needs."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        features = self.backbone.features(x)
        return features.maps, features.embedding


def _annotate(activation: Any, weight: Any, bits: int) -> Any:
    """The annotation of a layer: unsigned integers for its input, symmetric ones per channel for its weight."""
    from torchao.quantization.pt2e import FusedMovingAvgObsFakeQuantize, observer
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec

    max_value = 2 ** (bits - 1) - 1
    input_spec = QuantizationSpec(
        torch.uint8,
        FusedMovingAvgObsFakeQuantize.with_args(observer=observer.MovingAverageMinMaxObserver),
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
    )
    weight_spec = QuantizationSpec(
        torch.int8,
        FusedMovingAvgObsFakeQuantize.with_args(
            observer=observer.MovingAveragePerChannelMinMaxObserver,
            averaging_constant=1.0,  # the current extremes
        ),
        quant_min=-max_value - 1,
        quant_max=max_value,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )
    return QuantizationAnnotation(input_qspec_map={activation: input_spec, weight: weight_spec}, _annotated=True)
