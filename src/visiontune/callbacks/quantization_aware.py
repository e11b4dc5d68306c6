"""Training that feels the rounding of 8 bits."""

from importlib.util import find_spec
from itertools import chain
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from visiontune.errors import UserError
from visiontune.models.backbones import Backbone
from visiontune.models.features import Features
from visiontune.runs.log import log

aten = torch.ops.aten
WEIGHTED = (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input, aten.linear.default)


class QuantizationAware(L.Callback):
    """Rounds a backbone's weights and activations in training as `int8` will round them, so that it learns to be exact.

    Gradients pass through the rounding as if it were not there (Jacob et al. 2018, https://arxiv.org/abs/1712.05877).
    What rounds is torchao's PT2E flow. It stands beside the network and shares its parameters: what is trained, kept in
    checkpoints and averaged is the ordinary network in floats, of which the step `int8` makes integers. The
    validation while training is that of the rounded backbone; heads stay in floats.

    BatchNorm's statistics are fixed, and the backbone has no dropout, as in evaluation.

    Args:
        images: of the training split, without augmentation, that activations' ranges begin with; every step goes on.
        reduce_range: weights of 7 bits, as `int8` takes for processors without VNNI.

    Raises:
        UserError: torchao is missing; the backbone cannot be exported; several processes, half precision, `compile`,
            `strategy.cache` or `strategy.batchnorm=train`.
    """

    def __init__(self, pictures: int = 128, reduce_range: bool = False) -> None:
        if find_spec("torchao") is None:
            raise UserError(
                "training that rounds to 8 bits needs torchao, an extra of this package: "
                "pip install 'visiontune[compress]'"
            )
        if pictures < 1:
            raise UserError(f"pictures={pictures} of QuantizationAware: write 1 or more")
        self.pictures, self.reduce_range = pictures, reduce_range
        self.rounded: Rounded | None = None
        self.kept: dict[str, dict[str, Tensor]] = {}  # ranges, of a checkpoint

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        for wrong, write in (
            (trainer.world_size > 1, "trainer.devices=1"),  # each process would see ranges of its own
            (trainer.precision != "32-true", "trainer.precision=32-true"),
            (pl_module.backbone._compiled_call_impl is not None, "compile=false"),
            (trainer.datamodule.wrap_loader is not None, "strategy.cache=none"),
            (pl_module.strategy.batchnorm != "frozen", "strategy.batchnorm=frozen"),
        ):
            if wrong:
                raise UserError(f"training that rounds to 8 bits works with {write} alone")

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.rounded = Rounded(pl_module.backbone, trainer.datamodule.image_size, 7 if self.reduce_range else 8)
        pl_module.backbone.features = self.rounded
        log.info(f"rounds to 8 bits in {len(self.rounded.places)} places of {pl_module.backbone.name}")
        if trainer.ckpt_path is not None:
            self.rounded.load(self.kept)
            return
        self.rounded.watch(True)
        with torch.no_grad():
            for batch in trainer.datamodule.eval_loader("train", at_most=self.pictures):
                image = trainer.datamodule.to_network(move_data_to_device(batch, pl_module.device))["image"]
                pl_module.backbone(image)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert self.rounded is not None
        self.rounded.watch(True)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self.rounded is not None:
            self.rounded.watch(False)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        del pl_module.backbone.features  # its own again
        self.rounded = None

    def state_dict(self) -> dict[str, Any]:
        return {"ranges": self.rounded.ranges() if self.rounded else self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = state_dict["ranges"]


class Rounded:
    """The features of a backbone whose convolutions and linear layers see rounded inputs and weights.

    No module: a network has it beside its own, on the same parameters and buffers. torchao's `prepare_qat_pt2e` would
    also join convolutions with BatchNorm, in training mode, with another epsilon, and divide by its weight: NaN where
    that is 0. Its quantizer for x86 refuses residual blocks of torchvision. So the rules are its own here, and the
    places of rounding are put in by the part of PT2E after the joining.

    Args:
        size: (H, W) of the images.
        bits: of a weight, 8 or 7.

    Raises:
        UserError: torch.export cannot follow the backbone.
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], bits: int = 8) -> None:
        from torchao.quantization.pt2e.prepare import prepare

        graph = _exported(backbone, size)
        for node in graph.graph.nodes:
            if node.target in WEIGHTED:
                node.meta["quantization_annotation"] = _rounding(node.args[0], node.args[1], bits)
        prepared = prepare(graph, {}, is_qat=True).to(backbone.mean.device)
        own = dict(chain(backbone.named_parameters("backbone"), backbone.named_buffers("backbone")))
        for path, _ in [*prepared.named_parameters(), *prepared.named_buffers()]:
            if path in own:
                owner, _, name = path.rpartition(".")
                setattr(prepared.get_submodule(owner), name, own[path])
        self.graph = prepared
        self.places = {name: part for name, part in prepared.named_modules() if hasattr(part, "fake_quant_enabled")}

    def __deepcopy__(self, memo: Any) -> "Rounded":
        return self  # the average of the weights is put into this network to be validated

    def __call__(self, x: Tensor) -> Features:
        maps, embedding = self.graph(x)
        return Features(maps, lambda: embedding)

    def watch(self, on: bool) -> None:
        """Whether activations' ranges follow what is seen; those of weights always are the weights'."""
        for place in self.places.values():
            if not place.is_per_channel:
                place.enable_observer(on)

    def ranges(self) -> dict[str, dict[str, Tensor]]:
        """By place."""
        return {name: place.state_dict() for name, place in self.places.items()}

    def load(self, ranges: dict[str, dict[str, Tensor]]) -> None:
        """Take back what `ranges` gave."""
        for name, place in self.places.items():
            place.load_state_dict(ranges[name])


def _exported(backbone: Backbone, size: tuple[int, int]) -> Any:
    """The graph of a backbone's features, as in evaluation, for batches of any size."""
    image = torch.rand(2, backbone.in_channels, *size).to(backbone.mean)
    modes = {module: module.training for module in backbone.modules()}
    plain = _Plain(backbone).eval()
    try:
        program = torch.export.export(plain, (image,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    except Exception as error:  # whatever the network's code comes upon
        raise UserError(
            f"torch.export cannot follow {backbone.name} ({str(error).splitlines()[0]}): recipe=int8 quantizes it "
            "without training"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    return program.module(check_guards=False)


class _Plain(nn.Module):
    """A backbone's features as tensors."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        features = self.backbone.features(x)
        return features.maps, features.embedding


def _rounding(activation: Any, weight: Any, bits: int) -> Any:
    """What PT2E is to do before a layer: integers from 0 for its input, symmetric ones a channel for its weight."""
    from torchao.quantization.pt2e import FusedMovingAvgObsFakeQuantize, observer
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec

    most = 2 ** (bits - 1) - 1
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
            averaging_constant=1.0,  # the extremes that it has now
        ),
        quant_min=-most - 1,
        quant_max=most,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )
    return QuantizationAnnotation(input_qspec_map={activation: input_spec, weight: weight_spec}, _annotated=True)
