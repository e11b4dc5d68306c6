"""Use a run on new images, or on the frames of a video."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities import move_data_to_device
from omegaconf import DictConfig
from torch import Tensor
from torchvision.io import write_png

from visiontune.data import image_loader, to_network
from visiontune.data.images import ImageDecoder, is_image, load_images
from visiontune.data.video import VideoWriter, frame_rate, frames, is_video
from visiontune.deployment.files import open_exported, run_through
from visiontune.errors import UserError
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.interfaces import require
from visiontune.models.heads.overlays import side_by_side
from visiontune.runs.links import check_links
from visiontune.runs.log import logging_to
from visiontune.runs.predictions import Row, write_predictions
from visiontune.training.evaluation import quiet_trainer
from visiontune.training.load import load_model, open_run


@dataclass(frozen=True)
class Input:
    """The images to predict.

    Args:
        images: returns a new iterator of names and images `(C, H, W)`.
        frame_rate: frames per second; None unless the input is a video.
    """

    images: Callable[[], Iterator[tuple[str, Tensor]]]
    frame_rate: Fraction | None = None


class _PredictData(L.LightningDataModule):
    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.loader = loader

    def predict_dataloader(self) -> Any:
        return self.loader

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        original_images = batch.pop("original_image")  # drawn on, on the CPU
        return super().transfer_batch_to_device(batch, device, dataloader_idx) | {"original_image": original_images}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return to_network(batch)


class _Writer(L.Callback):
    """Collects the rows of predictions.csv. Writes images and masks after each batch, so that they use no memory."""

    def __init__(self, heads: Mapping[str, Describable], output: Path, draw: bool, video: VideoWriter | None) -> None:
        self.heads, self.output, self.draw, self.video = heads, output, draw, video
        self.rows: list[Row] = []
        self.image_count = 0

    def on_predict_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for (name, predictions), image in zip(
            move_data_to_device(outputs, "cpu"), batch["original_image"], strict=True
        ):
            self.image_count += 1
            drawings = []
            for task, prediction in predictions.items():
                head = self.heads[task]
                text, score = head.describe(prediction)
                self.rows.append(Row(name, "", task, "", text, score, float("nan")))
                for kind, result in head.images(prediction).items():
                    self._write(f"{task}_{kind}", name, result)
                if self.draw:
                    drawings.append(head.draw(image, prediction))
            if drawings:
                sheet = drawings[0] if len(drawings) == 1 else side_by_side(drawings, list(predictions))
                if self.video:
                    self.video.write(sheet)
                else:
                    self._write("images", name, sheet)

    def _write(self, folder: str, name: str, image: Tensor) -> None:
        path = self.output / folder / (name if name.endswith(".png") else f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(image, str(path), compression_level=4)


def main(cfg: DictConfig) -> Path:
    """Write predictions.csv and the drawn images or video; return the output folder."""
    run, run_cfg = open_run(cfg.run, cfg.trust)
    input_path = Path(cfg.input).expanduser()
    source = open_input(input_path, ImageDecoder.from_config(run_cfg.data))
    model, _ = load_model(run, run_cfg, cfg.checkpoint)
    heads = require(model.heads, Describable, "predict")
    accelerator = run_cfg.trainer.accelerator if cfg.accelerator == "auto" else cfg.accelerator
    precision = run_cfg.trainer.precision
    if backend := cfg.backend or run_cfg.get("backend"):
        run_through(model, open_exported(run, backend, cfg.checkpoint, cfg.trust))
        accelerator, precision = "cpu", "32-true"
    output = (
        Path(cfg.output).expanduser() if cfg.output else run.path / "predictions" / time.strftime("%Y-%m-%d_%H-%M-%S")
    )
    if cfg.output is None and not cfg.trust:
        check_links(run.path, output)
    output.mkdir(parents=True, exist_ok=True)
    size, resize, fill = run_cfg.data.image_size, run_cfg.data.resize, run_cfg.augment.fill
    loader = image_loader(source.images, image_size=size, resize=resize, fill=fill, batch_size=cfg.batch_size)
    with ExitStack() as stack:
        video = None
        if source.frame_rate and cfg.images:
            video = stack.enter_context(VideoWriter(output / "images" / f"{input_path.stem}.mp4", source.frame_rate))
        writer = _Writer(heads, output, cfg.images, video)
        trainer = quiet_trainer(accelerator, precision, [writer])
        with logging_to(None):
            trainer.predict(model, datamodule=_PredictData(loader), return_predictions=False)
    write_predictions(output / "predictions.csv", writer.rows)
    print(f"{writer.image_count} {'frames' if source.frame_rate else 'images'}: {output / 'predictions.csv'}")
    print(output)
    return output


def open_input(path: Path, decoder: ImageDecoder) -> Input:
    """Read one image, the frames of a video (named `NAME/000000`, ...), or all images under a folder.

    Raises:
        UserError: there are no images at `path`.
    """
    if path.is_file() and is_video(path):
        return Input(
            lambda: ((f"{path.name}/{i:06d}", frame) for i, frame in enumerate(frames(path, decoder.channels))),
            frame_rate(path),
        )
    if path.is_file():
        return Input(lambda: zip([path.name], _load([path], decoder), strict=True))
    if not path.is_dir():
        raise UserError(f"input={path} does not exist: write the path of an image, a video or a folder")
    paths = sorted(file for file in path.rglob("*") if file.is_file() and is_image(file))
    if not paths:
        raise UserError(f"input={path} has no images: write a folder with files such as bird.jpg")
    names = [file.relative_to(path).as_posix() for file in paths]
    return Input(lambda: zip(names, _load(paths, decoder), strict=True))


def _load(paths: list[Path], decoder: ImageDecoder) -> Iterator[Tensor]:
    for image in load_images(paths, decoder):
        if isinstance(image, UserError):
            raise image
        yield image
