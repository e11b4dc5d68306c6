"""An image out of an image: restored, or a measurement a pixel such as depth."""

import math
from collections.abc import Callable, Sequence
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
from visiontune.models.heads.base import LossBySample, Prediction, Raw
from visiontune.models.heads.decoders import conv, upsampled
from visiontune.models.heads.decoders import decoder as build_decoder
from visiontune.models.heads.drawing import enlarged
from visiontune.models.heads.overlays import beside

LOSSES: dict[str, Callable[..., Tensor]] = {"l1": F.l1_loss, "mse": F.mse_loss, "huber": F.huber_loss}
SSIM_SIDE = 11  # pixels of its window; a smaller image has none


class DenseMetrics(nn.Module):
    """MAE and RMSE over all values of the split; with a range also PSNR and SSIM.

    PSNR is that of the split's mean squared error (not the mean of each image's PSNR, which one perfect image
    makes infinite); SSIM (Wang et al. 2004) is the mean over images of at least 11 x 11 pixels. NaN in a truth is
    left out, and counts as right in SSIM.
    """

    def __init__(self, width: float | None) -> None:
        """
        Args:
            width: of the range of values, or None.
        """
        super().__init__()
        values: dict[str, Metric | MetricCollection] = {
            "mae": MeanAbsoluteError(),
            "rmse": MeanSquaredError(squared=False),
        }
        if width is not None:
            values["psnr"] = PeakSignalNoiseRatio(data_range=width)
        self.values = MetricCollection(values, compute_groups=False)
        self.pictures = MetricCollection(
            {} if width is None else {"ssim": StructuralSimilarityIndexMeasure(data_range=width)}
        )

    def update(self, predictions: list[Prediction], targets: list[Tensor]) -> None:
        for prediction, target in zip(predictions, targets, strict=True):  # images differ in size
            found, truth = prediction["image"], _floats(target).to(prediction["image"])
            known = ~truth.isnan()
            self.values.update(found[known], truth[known])
            if min(found.shape[-2:]) >= SSIM_SIDE:
                self.pictures.update(found[None], torch.where(known, truth, found)[None])

    def compute(self) -> dict[str, Tensor]:
        return self.values.compute() | self.pictures.compute()

    def reset(self) -> None:
        self.values.reset()
        self.pictures.reset()


class DenseHead(LossBySample):
    """A decoder over the backbone's maps, and a few convolutions over its output and the input at full resolution.

    The finest map of a network has stride 2 or 4: what is finer than that has to come from the input itself.

    Args:
        decoder: see `visiontune.models.heads.decoders`.
        channels: width of the decoder at its coarsest.
        detail: width of the convolutions at full resolution.
        loss: "l1", "mse" or "huber", of values in units of the range; NaN in a target is not counted.
        residual: predict the change to the input (denoising, inpainting), beginning at none; the target has as many
            channels as the input then.
        range: [lowest, highest] value, which predictions are clipped to; None where there is none (PSNR and SSIM need
            one, and are left out then).

    Raises:
        UserError: an option without meaning.
    """

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        decoder: str = "unet",
        channels: int = 128,
        detail: int = 32,
        loss: str = "l1",
        residual: bool = False,
        range: Sequence[float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.channels = list(info.classes)
        if loss not in LOSSES:
            raise UserError(f"loss={loss} of a dense head: write one of {', '.join(LOSSES)}")
        if residual and len(self.channels) != features.in_channels:
            raise UserError(
                f"residual=true adds to the input, which has {features.in_channels} channels, and the target has "
                f"{len(self.channels)}; write residual=false"
            )
        if range is not None and not (len(range) == 2 and range[0] < range[1]):
            raise UserError(f"range={list(range)} of a dense head: write two rising numbers, such as range=[0,1]")
        self.directions = {"mae": "min", "rmse": "min", "loss": "min"}
        if range is not None:
            self.directions |= {"psnr": "max", "ssim": "max"}
        self.monitor = "rmse" if range is None else "psnr"
        self.range, self.residual = range, residual
        self.low, self.width = (0.0, 1.0) if range is None else (range[0], range[1] - range[0])
        self.criterion = LOSSES[loss]
        self.decoder = build_decoder(decoder, features, channels, detail)
        self.detail = nn.Sequential(conv(detail + features.in_channels, detail), conv(detail, detail))
        self.last = nn.Conv2d(detail, len(self.channels), 1)
        if residual:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(cast(Tensor, self.last.bias))

    def forward(self, features: Features) -> Raw:
        """`image` ``(B, C, H, W)``, as large as the input, in units of the range and not clipped."""
        image = features.image
        x = torch.cat([upsampled(self.decoder(features), features.size), image], 1)
        x = self.detail(x)
        with torch.autocast(x.device.type, enabled=False):  # 8 bits would be steps of half a metre at 80 metres
            change = self.last(x.float())
        return {"image": (image - self.low) / self.width + change if self.residual else change}

    def losses(self, raw: Raw, targets: list[Any]) -> tuple[Tensor, Tensor]:
        found = raw["image"].float()
        truth = torch.full_like(found, torch.nan)
        for i, target in enumerate(targets):
            if target is not None:
                truth[i] = (_floats(target) - self.low) / self.width
        known = ~truth.isnan()
        elements = self.criterion(found, truth.nan_to_num(0.0), reduction="none") * known
        return elements.sum((1, 2, 3)) / known.sum((1, 2, 3)).clamp_min(1), known.flatten(1).any(1)

    def distill(self, raw: Raw, teacher: Self, taught: Raw, temperature: float) -> Tensor:
        """In units of this head's range."""
        found = raw["image"].float()
        values = (taught["image"].float() * teacher.width + teacher.low - self.low) / self.width
        return self.criterion(found, upsampled(values, found.shape[-2:]))

    def decode(self, raw: Raw, frames: Sequence[Frame]) -> list[Prediction]:
        """`image` ``(C, H, W)``, in the user's units, inside the range."""
        return [self.graph({"image": image}, frame) for image, frame in zip(raw["image"], frames, strict=True)]

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`image` ``(..., C, H, W)``."""
        values = frame.pixels(raw["image"].float()) * self.width + self.low
        return {"image": values if self.range is None else values.clamp(self.range[0], self.range[1])}

    def metrics(self) -> DenseMetrics:
        return DenseMetrics(None if self.range is None else self.width)

    def score(self, computed: dict[str, Tensor]) -> Tensor:
        """SSIM; without a range, 1 / (1 + RMSE)."""
        return computed["ssim"].clamp_min(0.0) if "ssim" in computed else 1 / (1 + computed["rmse"])

    def describe(self, prediction: Prediction) -> tuple[str, float]:
        """The mean of each channel; there is no score."""
        return self.describe_target(prediction["image"]), math.nan

    def describe_target(self, target: Any) -> str:
        if target is None:
            return ""
        means = _floats(target).nanmean((1, 2)).tolist()
        return "mean " + ", ".join(f"{name} {mean:.3g}" for name, mean in zip(self.channels, means, strict=True))

    def draw(self, image: Tensor, prediction: Prediction | None, target: Any = None) -> Tensor:
        """Input, truth and prediction side by side, of the channels that can be seen."""
        shown = {"input": enlarged(image)}
        for title, values in (("truth", target), ("prediction", None if prediction is None else prediction["image"])):
            if values is not None:
                shown[title] = enlarged(next(iter(self._pictures(_floats(values)).values())))
        return beside(list(shown.values()), list(shown))

    def images(self, prediction: Prediction) -> dict[str, Tensor]:
        return self._pictures(prediction["image"])

    def _pictures(self, values: Tensor) -> dict[str, Tensor]:
        """uint8 images by name: one of one or three channels, else one a channel.

        Black to white is the range; without one, the lowest to the highest value there is.
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


def _floats(image: Tensor) -> Tensor:
    """uint8 in 0..1; floats as they are."""
    plain = image.as_subclass(Tensor)
    return plain / 255 if plain.dtype == torch.uint8 else plain.float()
