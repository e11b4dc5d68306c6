"""Use a run on new images, or on the frames of a video."""

import hashlib
import time
from collections.abc import Mapping, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities import move_data_to_device
from omegaconf import DictConfig
from torch import Tensor

from visiontune.data import image_loader, to_network
from visiontune.data.images import ImageDecoder
from visiontune.data.inputs import open_input
from visiontune.data.video import VideoWriter
from visiontune.deployment.files import open_exported, run_through
from visiontune.errors import RunError, UserError, listed, pluralize, printable
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.drawing import save_image
from visiontune.models.heads.interfaces import require
from visiontune.models.heads.overlays import side_by_side
from visiontune.runs.files import temporary_path
from visiontune.runs.links import check_links
from visiontune.runs.log import logging_to
from visiontune.runs.output import check_output, check_results
from visiontune.runs.predictions import Row, write_predictions
from visiontune.training.evaluation import quiet_trainer
from visiontune.training.load import load_model, open_run


class _PredictData(L.LightningDataModule):
    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.loader = loader

    def predict_dataloader(self) -> Any:
        return self.loader

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        original_images = batch.pop("original_image", None)  # drawn on, on the CPU
        return super().transfer_batch_to_device(batch, device, dataloader_idx) | {"original_image": original_images}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return to_network(batch)


class _Writer(L.Callback):
    """Collects the rows of predictions.csv. Writes images and masks after each batch, so that they use no memory."""

    def __init__(
        self, heads: Mapping[str, Describable], output: Path, draw: bool, video: VideoWriter | None, names: Set[str]
    ) -> None:
        self.heads, self.output, self.draw, self.video, self.names = heads, output, draw, video, names
        self.rows: list[Row] = []
        self.paths: list[Path] = []  # of the images and masks
        self.image_count = 0

    def on_predict_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        original_images = batch["original_image"] or [None] * len(outputs)
        for (name, predictions), image in zip(move_data_to_device(outputs, "cpu"), original_images, strict=True):
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

    def discard(self) -> None:
        """Delete images and masks that no table lists, so that a command that was stopped can run again."""
        if not (self.output / "predictions.csv").exists():
            for path in self.paths:
                path.unlink(missing_ok=True)

    def _write(self, folder: str, name: str, image: Tensor) -> None:
        path = self.output / folder / drawing_name(name, self.names)
        self.paths.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(image, path)


def drawing_name(name: str, names: Set[str] = frozenset()) -> str:
    """The path of an image's drawing: `.png` is appended to another suffix, so that `a.jpg` and `a.png` differ.

    Args:
        names: of all images; the path is none of the others. A file name is at most 255 bytes long.
    """
    if not name.endswith(".png"):
        name += ".png"
        while name in names:  # a.jpg beside a.jpg.png
            name += ".png"
    folder, slash, file = name.rpartition("/")
    if len(file.encode()) > 255:
        digest = hashlib.blake2b(file.encode(), digest_size=4).hexdigest()
        file = f"{file.encode()[:200].decode(errors='ignore')}-{digest}.png"
    return folder + slash + file


def main(cfg: DictConfig) -> Path:
    """Write predictions.csv and the drawn images or video; return the output folder.

    Raises:
        UserError: the input or the output is wrong, or no image can be read.
        RunError: some images cannot be read; the predictions of the others are written.
    """
    run, run_cfg = open_run(cfg.run, cfg.trust)
    output = Path(cfg.output or run.path / "predictions" / time.strftime("%Y-%m-%d_%H-%M-%S")).expanduser()
    if cfg.output is None and not cfg.trust:
        check_links(run.path, output)
    source = open_input(Path(cfg.input).expanduser(), ImageDecoder.from_config(run_cfg.data), output)
    check_output(output, source.files.values())
    folders = [path.name for task in run_cfg.heads for path in output.glob(f"{task}_*")]  # such as of masks
    check_results(output, ("predictions.csv", *(["images"] if cfg.images else []), *folders))
    for note in source.notes:
        print(f"note: {printable(note)}")
    model, _ = load_model(run, run_cfg, cfg.checkpoint)
    heads = require(model.heads, Describable, "predict")
    accelerator = run_cfg.trainer.accelerator if cfg.accelerator == "auto" else cfg.accelerator
    precision = run_cfg.trainer.precision
    if backend := cfg.backend or run_cfg.get("backend"):
        run_through(model, open_exported(run, backend, cfg.checkpoint, cfg.trust))
        accelerator, precision = "cpu", "32-true"
    size, resize, fill = run_cfg.data.image_size, run_cfg.data.resize, run_cfg.augment.fill
    loader = image_loader(
        source.images,
        image_size=size,
        resize=resize,
        fill=fill,
        batch_size=cfg.batch_size,
        original_images=bool(cfg.images or backend),
    )
    with ExitStack() as stack:
        video = None
        if source.frame_rate and cfg.images:
            video_name = Path(next(iter(source.files))).stem
            path = stack.enter_context(temporary_path(output / "images" / f"{video_name}.mp4"))
            video = stack.enter_context(VideoWriter(path, source.frame_rate))
        writer = _Writer(heads, output, cfg.images, video, source.files.keys())
        trainer = quiet_trainer(accelerator, precision, [writer])
        try:
            with logging_to(None):
                trainer.predict(model, datamodule=_PredictData(loader), return_predictions=False)
        except BaseException:
            writer.discard()
            raise
    if not writer.image_count:
        raise UserError(f"input={printable(cfg.input)}: no image can be read; repair them:{listed(source.problems)}")
    output.mkdir(parents=True, exist_ok=True)
    write_predictions(output / "predictions.csv", writer.rows)
    print(f"{writer.image_count} {'frames' if source.frame_rate else 'images'}: {output / 'predictions.csv'}")
    print(output)
    if source.problems:
        raise RunError(
            f"{pluralize(len(source.problems), 'file', 'files')} cannot be read; the predictions of the others are in "
            f"{output / 'predictions.csv'}. Repair or remove:{listed(source.problems)}"
        )
    return output
