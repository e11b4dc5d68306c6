"""Use a run on new pictures."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig
from torch import Tensor
from torchvision.io import write_png

from visiontune.data import file_loader, to_network
from visiontune.data.images import is_image, load_image
from visiontune.errors import UserError
from visiontune.evaluation import quiet_trainer
from visiontune.report.overlays import beside
from visiontune.runs.load import load_model, open_run
from visiontune.runs.log import logging_to
from visiontune.runs.predictions import Row, write_predictions


class _Files(L.LightningDataModule):
    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.loader = loader

    def predict_dataloader(self) -> Any:
        return self.loader

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return to_network(batch)


def main(cfg: DictConfig) -> Path:
    run, run_cfg = open_run(cfg.run, cfg.trust)
    source = Path(cfg.input).expanduser()
    paths = _pictures(source)
    model, _ = load_model(run, run_cfg, cfg.checkpoint)
    output = (
        Path(cfg.output).expanduser() if cfg.output else run.path / "predictions" / time.strftime("%Y-%m-%d_%H-%M-%S")
    )
    output.mkdir(parents=True, exist_ok=True)
    settings = {key: run_cfg.data[key] for key in ("image_size", "resize", "channels")}
    loader = file_loader(paths, **settings, fill=run_cfg.augment.fill, batch_size=cfg.batch_size)
    accelerator = run_cfg.trainer.accelerator if cfg.accelerator == "auto" else cfg.accelerator
    trainer = quiet_trainer(accelerator, run_cfg.trainer.precision)
    with logging_to(None):
        batches = trainer.predict(model, datamodule=_Files(loader)) or []
    found = {path: prediction for batch in batches for path, prediction in batch}
    rows = []
    for path in paths:
        name = path.relative_to(source).as_posix() if source.is_dir() else path.name
        image = load_image(path, run_cfg.data.channels) if cfg.pictures else None
        drawn = []
        for task, prediction in found[str(path)].items():
            head = model.heads[task]
            text, score = head.describe(prediction)
            rows.append(Row(name, "", task, "", text, score, float("nan")))
            for kind, result in head.images(prediction).items():
                _write(output / f"{task}_{kind}", name, result)
            if image is not None:
                drawn.append(head.draw(image, prediction))
        if drawn:
            _write(output / "pictures", name, drawn[0] if len(drawn) == 1 else beside(drawn, list(found[str(path)])))
    write_predictions(output / "predictions.csv", rows)
    print(f"{len(paths)} pictures: {output / 'predictions.csv'}")
    print(output)
    return output


def _write(folder: Path, name: str, image: Tensor) -> None:
    target = folder / (name if name.endswith(".png") else f"{name}.png")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_png(image, str(target), compression_level=4)


def _pictures(source: Path) -> list[Path]:
    """The pictures of a folder and of its folders, sorted; or the one file."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"input={source} is not there: give a picture or a folder of pictures")
    paths = sorted(path for path in source.rglob("*") if path.is_file() and is_image(path))
    if not paths:
        raise UserError(f"input={source} has no pictures in it")
    return paths
