"""Weights & Biases."""

import importlib
import inspect
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers as lightning_loggers
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from visiontune.errors import UserError
from visiontune.loggers.base import ArtifactLogger, ImageLogger, LoggedRun
from visiontune.loggers.sent import SentRecords


class WandbLogger(lightning_loggers.WandbLogger, ImageLogger, ArtifactLogger):
    """Lightning's WandbLogger, with one W&B run for each run directory: its id is in `RUN/loggers/wandb.json`.

    Args:
        offline: keep everything in `RUN/wandb` for `wandb sync`.
        log_artifacts: store the run's files as an artifact after the run.
        options: arguments of `wandb.init`, such as `entity`.
    """

    package = "wandb"

    def __init__(
        self, run: LoggedRun, project: str, offline: bool = False, log_artifacts: bool = False, **options: Any
    ) -> None:
        run_id = run.read("wandb").get("id") or secrets.token_hex(4)
        run.write("wandb", {"id": run_id})
        self.run = run
        self.log_artifacts = log_artifacts
        self.sent = SentRecords(run.sent_file("wandb"))
        description = {"name": run.name, "group": run.group, "tags": list(run.tags) or None, "notes": run.note}
        options = description | ({"mode": "offline"} if offline else {}) | options
        options["settings"] = self._settings() | options.get("settings", {})
        super().__init__(project=project, save_dir=str(run.path), version=run_id, **options)

    @staticmethod
    def _settings() -> dict[str, float]:
        """Write to the disk every second; by default, a killed process loses up to 15 seconds."""
        wandb: Any = importlib.import_module("wandb")
        name = "x_transaction_log_flush_interval"
        return {name: 1.0} if name in wandb.Settings.model_fields else {}

    @classmethod
    def check(cls, offline: bool = False, **options: Any) -> None:
        """Check the arguments before the run begins.

        Raises:
            UserError: `wandb.init` does not accept an argument, or there is no login.
        """
        wandb: Any = importlib.import_module("wandb")
        extra = {"project", "log_artifacts"}
        known = sorted(extra | {"offline"} | set(inspect.signature(wandb.init).parameters))
        for name in options.keys() - known:
            raise UserError(f"logger.wandb.{name}: unknown key; write one of {', '.join(known)}")
        online = not offline and options.get("mode") not in ("offline", "disabled")
        if online and os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
            raise UserError("logger=wandb needs a login: run `wandb login`, or write logger.wandb.offline=true")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is None:
            return super().log_metrics(metrics)
        new = {name: value for name, value in metrics.items() if self.sent.is_new(name, step)}
        if new:
            super().log_metrics(new, step)
            self.sent.add(new, step)
        return None

    @rank_zero_only
    def add_image(self, name: str, image: Tensor, step: int) -> None:
        wandb: Any = importlib.import_module("wandb")
        self.log_metrics({name: wandb.Image(image.permute(1, 2, 0).numpy())}, step)

    @rank_zero_only
    def add_files(self, folder: Path, files: list[str]) -> None:
        wandb: Any = importlib.import_module("wandb")
        artifact = wandb.Artifact(f"run-{self.version}", type="run")
        for file in files:
            artifact.add_file(str(folder / file), name=file)
        self.experiment.log_artifact(artifact)

    def close(self, status: str) -> None:
        """End the W&B run, so that the next job of a sweep begins another."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None
