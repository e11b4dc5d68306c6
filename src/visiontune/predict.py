"""Use a run on new images, or on the frames of a video."""

import time
from collections.abc import Callable, Iterator
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

from visiontune.data import picture_loader, to_network
from visiontune.data.images import is_image, load_images
from visiontune.data.video import VideoWriter, frame_rate, frames, is_video
from visiontune.deployment.files import open_exported, run_through
from visiontune.errors import UserError
from visiontune.models.heads.overlays import beside
from visiontune.runs.log import logging_to
from visiontune.runs.predictions import Row, write_predictions
from visiontune.training.evaluation import quiet_trainer
from visiontune.training.load import load_model, open_run


@dataclass(frozen=True)
class Input:
    """Names with images, as often as they are asked for; `rate` is a video's, in frames a second."""

    pictures: Callable[[], Iterator[tuple[str, Tensor]]]
    rate: Fraction | None = None


class _Loose(L.LightningDataModule):
    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.loader = loader

    def predict_dataloader(self) -> Any:
        return self.loader

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        pictures = batch.pop("picture")  # to be drawn on, not computed with
        return super().transfer_batch_to_device(batch, device, dataloader_idx) | {"picture": pictures}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return to_network(batch)


class _Writer(L.Callback):
    """Keeps a row a prediction, and writes what is drawn batch by batch: neither images nor masks pile up."""

    def __init__(self, output: Path, draw: bool, video: VideoWriter | None) -> None:
        self.output, self.draw, self.video = output, draw, video
        self.rows: list[Row] = []
        self.pictures = 0

    def on_predict_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for (name, found), picture in zip(move_data_to_device(outputs, "cpu"), batch["picture"], strict=True):
            self.pictures += 1
            drawn = []
            for task, prediction in found.items():
                head = module.heads[task]
                text, score = head.describe(prediction)
                self.rows.append(Row(name, "", task, "", text, score, float("nan")))
                for kind, result in head.images(prediction).items():
                    self._write(f"{task}_{kind}", name, result)
                if self.draw:
                    drawn.append(head.draw(picture, prediction))
            if drawn:
                sheet = drawn[0] if len(drawn) == 1 else beside(drawn, list(found))
                if self.video:
                    self.video.write(sheet)
                else:
                    self._write("pictures", name, sheet)

    def _write(self, folder: str, name: str, image: Tensor) -> None:
        target = self.output / folder / (name if name.endswith(".png") else f"{name}.png")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_png(image, str(target), compression_level=4)


def main(cfg: DictConfig) -> Path:
    run, run_cfg = open_run(cfg.run, cfg.trust)
    source = Path(cfg.input).expanduser()
    found = _input(source, run_cfg.data.channels)
    model, _ = load_model(run, run_cfg, cfg.checkpoint)
    accelerator = run_cfg.trainer.accelerator if cfg.accelerator == "auto" else cfg.accelerator
    precision = run_cfg.trainer.precision
    if backend := cfg.backend or run_cfg.get("backend"):
        run_through(model, open_exported(run, backend, cfg.checkpoint))
        accelerator, precision = "cpu", "32-true"
    output = (
        Path(cfg.output).expanduser() if cfg.output else run.path / "predictions" / time.strftime("%Y-%m-%d_%H-%M-%S")
    )
    output.mkdir(parents=True, exist_ok=True)
    size, resize, fill = run_cfg.data.image_size, run_cfg.data.resize, run_cfg.augment.fill
    loader = picture_loader(found.pictures, image_size=size, resize=resize, fill=fill, batch_size=cfg.batch_size)
    with ExitStack() as stack:
        video = None
        if found.rate and cfg.pictures:
            video = stack.enter_context(VideoWriter(output / "pictures" / f"{source.stem}.mp4", found.rate))
        writer = _Writer(output, cfg.pictures, video)
        trainer = quiet_trainer(accelerator, precision, [writer])
        with logging_to(None):
            trainer.predict(model, datamodule=_Loose(loader), return_predictions=False)
    write_predictions(output / "predictions.csv", writer.rows)
    print(f"{writer.pictures} {'frames' if found.rate else 'pictures'}: {output / 'predictions.csv'}")
    print(output)
    return output


def _input(source: Path, channels: int) -> Input:
    """The one image, the frames of a video (`NAME/000000`, ...), or the images of a folder and of its folders."""
    if source.is_file() and is_video(source):
        rate = frame_rate(source)
        return Input(lambda: ((f"{source.name}/{i:06d}", f) for i, f in enumerate(frames(source, channels))), rate)
    if source.is_file():
        return Input(lambda: zip([source.name], load_images([source], channels), strict=True))
    if not source.is_dir():
        raise UserError(f"input={source} is not there: give an image, a video or a folder")
    paths = sorted(path for path in source.rglob("*") if path.is_file() and is_image(path))
    if not paths:
        raise UserError(f"input={source} has no images in it")
    names = [path.relative_to(source).as_posix() for path in paths]
    return Input(lambda: zip(names, load_images(paths, channels), strict=True))
