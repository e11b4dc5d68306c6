"""An output image for each input image: a restored image, or a measurement per pixel such as depth."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.base import Prediction, Raw
from visiontune.models.heads.decoders import build_decoder, conv, upsample
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.distillable import Distillable
from visiontune.models.heads.drawing import enlarge
from visiontune.models.heads.element_loss import ElementLossHead
from visiontune.models.heads.exportable import Exportable
from visiontune.models.heads.losses import build_loss
from visiontune.models.heads.overlays import side_by_side

KEY = "heads.dense"
LOSSES: dict[str, Callable[..., Tensor]] = {"l1": F.l1_loss, "mse": F.mse_loss, "huber": F.huber_loss}
SSIM_SIDE = 11  # side of the window in pixels; a smaller image has no SSIM


class DenseMetrics(nn.Module):
    """MAE and RMSE over all values of the split; with a range also PSNR and SSIM.

    PSNR comes from the split's mean squared error. The mean of the images' PSNR would be infinite with one perfect
    image. SSIM (Wang et al. 2004) is the mean over images of at least 11 x 11 pixels. NaN in a truth is left out, and
    counts as correct in SSIM.
    """

    def __init__(self, width: float | None) -> None:
        """
        Args:
            width: highest minus lowest value, or None for values without a range.
        """
        super().__init__()
        values: dict[str, Metric | MetricCollection] = {
            "mae": MeanAbsoluteError(),
            "rmse": MeanSquaredError(squared=False),
        }
        if width is not None:
            values["psnr"] = PeakSignalNoiseRatio(data_range=width)
        self.values = MetricCollection(values, compute_groups=False)
        ssim: dict[str, Metric | MetricCollection] = (
            {} if width is None else {"ssim": StructuralSimilarityIndexMeasure(data_range=width)}
        )
        self.images = MetricCollection(ssim)

    def update(self, predictions: list[Prediction], targets: list[Tensor]) -> None:
        for prediction, target in zip(predictions, targets, strict=True):  # images differ in size
            image, truth = prediction["image"], _to_float(target).to(prediction["image"])
            known = ~truth.isnan()
            self.values.update(image[known], truth[known])
            if min(image.shape[-2:]) >= SSIM_SIDE:
                self.images.update(image[None], torch.where(known, truth, image)[None])

    def compute(self) -> dict[str, Tensor]:
        return self.values.compute() | self.images.compute()

    def reset(self) -> None:
        self.values.reset()
        self.images.reset()


class DenseHead(ElementLossHead, Describable, Exportable, Distillable):
    """A decoder over the backbone's maps, and a few convolutions over its output and the input at full resolution.

    The finest map of a network has stride 2 or 4, so finer detail must come from the input itself.

    Extra metrics are updated with one prediction and its target at a time, ``(1, C, H, W)`` in the user's units. Pixels
    without truth have the prediction as their target.

    Args:
        decoder: see `visiontune.models.heads.decoders`.
        channels: width of the decoder at its coarsest level.
        detail: width of the convolutions at full resolution.
        loss: "l1", "mse", "huber" or a module, see `visiontune.models.heads.losses`; its values are in units of the
            range. NaN in a target is left out.
        residual: predict the change to the input (denoising, inpainting), starting at zero. The target then has as many
            channels as the input.
        range: [lowest, highest] value; predictions are clipped to it. None: no range, no PSNR and no SSIM.

    Raises:
        UserError: an option is out of range, or a loss module does not accept the head's outputs.
    """

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        decoder: str = "unet",
        channels: int = 128,
        detail: int = 32,
        loss: str | nn.Module = "l1",
        residual: bool = False,
        range: Sequence[float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.channels = list(info.classes)
        example = torch.zeros(2, len(self.channels), 16, 16)
        self.loss_module = build_loss(loss, LOSSES, f"{KEY}.loss", example, example, ignores_unknown=False)
        if residual and len(self.channels) != features.in_channels:
            raise UserError(
                f"{KEY}.residual=true adds to the input, which has {features.in_channels} channels, and the target has "
                f"{len(self.channels)}; write {KEY}.residual=false"
            )
        if range is not None and not _is_range(range):
            raise UserError(f"{KEY}.range={range}: write two rising numbers, such as {KEY}.range=[0,1]")
        self.directions = {"mae": "min", "rmse": "min", "loss": "min"}
        if range is not None:
            self.directions |= {"psnr": "max", "ssim": "max"}
        self.monitor = "rmse" if range is None else "psnr"
        self.range, self.residual = range, residual
        self.low, self.width = (0.0, 1.0) if range is None else (range[0], range[1] - range[0])
        # Distillation uses the criterion also if the loss is a module.
        self.criterion = LOSSES[loss] if isinstance(loss, str) else F.l1_loss
        self.decoder = build_decoder(decoder, features, channels, detail)
        self.scaled_options = [f"decoder={decoder}"] if self.decoder.is_scaled else []
        self.detail = nn.Sequential(conv(detail + features.in_channels, detail), conv(detail, detail))
        self.last = nn.Conv2d(detail, len(self.channels), 1)
        if residual:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(cast(Tensor, self.last.bias))

    def forward(self, features: Features) -> Raw:
        """`image` ``(B, C, H, W)``, as large as the input, in units of the range, not clipped."""
        image = features.image
        x = torch.cat([upsample(self.decoder(features), features.size), image], 1)
        x = self.detail(x)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 has steps of half a metre at 80 metres
            change = self.last(x.float())
        return {"image": (image - self.low) / self.width + change if self.residual else change}

    def loss_inputs(self, raw: Raw, targets: list[Any]) -> tuple[Tensor, Tensor]:
        image = raw["image"].float()
        truth = torch.full_like(image, torch.nan)
        for i, target in enumerate(targets):
            if target is not None:
                truth[i] = (_to_float(target) - self.low) / self.width
        return image, truth

    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return self.criterion(predictions, targets, reduction="none")

    def distill(self, raw: Raw, teacher: Self, teacher_outputs: Raw, temperature: float) -> Tensor:
        """In units of this head's range."""
        image = raw["image"].float()
        values = (teacher_outputs["image"].float() * teacher.width + teacher.low - self.low) / self.width
        return self.criterion(image, upsample(values, image.shape[-2:]))

    def decode(self, raw: Raw, frames: Sequence[Frame]) -> list[Prediction]:
        """`image` ``(C, H, W)``, in the user's units, inside the range."""
        return [self.graph({"image": image}, frame) for image, frame in zip(raw["image"], frames, strict=True)]

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`image` ``(..., C, H, W)``."""
        values = frame.pixels(raw["image"].float()) * self.width + self.low
        return {"image": values if self.range is None else values.clamp(self.range[0], self.range[1])}

    def metrics(self) -> DenseMetrics:
        return DenseMetrics(None if self.range is None else self.width)

    def metric_inputs(self, predictions: list[Prediction], targets: list[Any]) -> Iterable[tuple[Tensor, Tensor]]:
        for prediction, target in zip(predictions, targets, strict=True):
            image, truth = prediction["image"], _to_float(target).to(prediction["image"])
            yield image[None], torch.where(truth.isnan(), image, truth)[None]

    def score(self, computed: Mapping[str, Any]) -> Tensor:
        """SSIM; without a range, 1 / (1 + RMSE)."""
        return computed["ssim"].clamp_min(0.0) if "ssim" in computed else 1 / (1 + computed["rmse"])

    def describe(self, prediction: Prediction) -> tuple[str, float]:
        """The mean of each channel; there is no score."""
        return self.describe_target(prediction["image"]), math.nan

    def describe_target(self, target: Any) -> str:
        if target is None:
            return ""
        means = _to_float(target).nanmean((1, 2)).tolist()
        return "mean " + ", ".join(f"{name} {mean:.3g}" for name, mean in zip(self.channels, means, strict=True))

    def draw(self, image: Tensor, prediction: Prediction | None, target: Any = None) -> Tensor:
        """Input, truth and prediction side by side; only the first channel if they are not colours."""
        images = {"input": enlarge(image)}
        for title, values in (("truth", target), ("prediction", None if prediction is None else prediction["image"])):
            if values is not None:
                images[title] = enlarge(next(iter(self._to_images(_to_float(values)).values())))
        return side_by_side(list(images.values()), list(images))

    def images(self, prediction: Prediction) -> dict[str, Tensor]:
        return self._to_images(prediction["image"])

    def _to_images(self, values: Tensor) -> dict[str, Tensor]:
        """uint8 images by name: one image for one or three channels, else one per channel.

        The range is shown from black to white; without a range, the lowest to the highest value of the image.
        """
        values = values.as_subclass(Tensor).float()
        if self.range is None:
            finite = values[values.isfinite()]
            low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
        else:
            low, high = self.range
        grey = ((values - low) / (high - low) * 255).nan_to_num(0.0).round().clamp(0, 255).to(torch.uint8)
        if len(grey) in (1, 3):
            return {"output": grey}
        return {name: channel[None] for name, channel in zip(self.channels, grey, strict=True)}


def _is_range(values: Any) -> bool:
    numbers = [v for v in values if isinstance(v, int | float)] if isinstance(values, list | tuple) else []
    return len(numbers) == 2 and numbers[0] < numbers[1]


def _to_float(image: Tensor) -> Tensor:
    """uint8 scaled to 0..1; floats unchanged."""
    plain = image.as_subclass(Tensor)
    return plain / 255 if plain.dtype == torch.uint8 else plain.float()
