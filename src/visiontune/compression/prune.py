"""Remove channels from a run's backbone."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torchvision.ops import FrozenBatchNorm2d

from visiontune.compression.pruning import (
    COSTS,
    IMPORTANCES,
    SCOPES,
    Ranking,
    Traced,
    batchnorms,
    prune_to_target,
    remeasure_batchnorm,
)
from visiontune.compression.step import Step, derive_run, finalize_run, require_float_model, source_config
from visiontune.compression.train_step import TrainStep
from visiontune.config.derive import derive
from visiontune.data import VisionData
from visiontune.data.batch import Batch
from visiontune.data.loaders import as_size
from visiontune.errors import UserError, first_line
from visiontune.models.backbones import build
from visiontune.models.backbones.narrowing import list_shapes
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import save_atomically
from visiontune.training.build import build_data, build_finetuner
from visiontune.training.load import load_model, read_checkpoint, without_adapters


class Prune(Step):
    """Removes channels from the backbone until the network costs a given fraction; heads keep their widths.

    Train the run afterwards, since this step lowers its accuracy.

    Args:
        macs, params, latency: set exactly one, 0..1: the fraction of multiply-adds, parameters or latency (of one
            image, timed in turn with the original) that remains.
        rounds: number of pruning rounds, each by the same factor, with training between them.
        overrides: overrides of train, between rounds.
        importance, scope, multiple: see `Ranking`.
        images: number of training images, without augmentation, for BatchNorm's new statistics and for the gradients
            of `importance=taylor`.

    Raises:
        UserError: torch-pruning is missing, or an argument is out of range.
    """

    def __init__(
        self,
        macs: float | None = None,
        params: float | None = None,
        latency: float | None = None,
        rounds: int = 1,
        overrides: list[str] | None = None,
        importance: str = "taylor",
        scope: str = "global",
        multiple: int = 8,
        images: int = 512,
    ) -> None:
        if find_spec("torch_pruning") is None:
            raise UserError("pruning needs torch-pruning: pip install 'visiontune[compress]'")
        targets = {name: value for name, value in zip(COSTS, (macs, params, latency), strict=True) if value is not None}
        if len(targets) != 1 or not 0 < next(iter(targets.values())) < 1:
            raise UserError(
                f"prune has {targets or 'no target'}: set exactly one of {', '.join(COSTS)} between 0 and 1, such as "
                "macs=0.5"
            )
        if importance not in IMPORTANCES or scope not in SCOPES:
            raise UserError(
                f"importance={importance} scope={scope} of prune: write one of {', '.join(IMPORTANCES)}, and one of "
                f"{', '.join(SCOPES)}"
            )
        if min(rounds, multiple, images) < 1:
            raise UserError(f"rounds={rounds} multiple={multiple} images={images} of prune: write 1 or more")
        ((self.cost, self.fraction),) = targets.items()
        self.rounds, self.between = rounds, TrainStep(overrides or [])
        self.ranking, self.images = Ranking(importance, scope, multiple), images

    def check(self, cfg: DictConfig) -> DictConfig:
        """Prune a network with random weights and rebuild it from its config."""
        require_float_model(cfg, "prune")
        cfg = without_adapters(cfg)
        schema = build_data(cfg).schema
        model, _ = build_finetuner(cfg, schema, cfg.trainer.max_epochs, load=False)
        size = as_size(cfg.data.image_size)
        # Swin and the DINOv2 of RF-DETR.
        if any(hasattr(module, name) for module in model.backbone.modules() for name in ("window_size", "num_windows")):
            raise UserError(_refusal(cfg, "its attention is within windows"))
        if any(isinstance(module, FrozenBatchNorm2d) for module in model.backbone.modules()):
            raise UserError(_refusal(cfg, "its BatchNorm is frozen, backbone.norm=frozen"))
        for task, head in model.heads.items():
            if options := [f"heads.{task}.{option}" for option in head.scaled_options]:
                raise UserError(
                    f"prune cannot narrow {cfg.backbone.name} under {' and '.join(options)}: the width of these "
                    "layers follows that of their map; train a run with another decoder and without an auxiliary "
                    "classifier, or make this one faster with recipe=int8"
                )
        if self.ranking.importance == "batchnorm" and not batchnorms(model.backbone):
            raise UserError(
                f"importance=batchnorm of prune: {cfg.backbone.name} has no BatchNorm; write taylor or magnitude"
            )
        ranking = Ranking("magnitude", self.ranking.scope, self.ranking.multiple)
        try:
            # Latency does not depend on the weights, and multiply-adds are quicker to count.
            smaller = prune_to_target(
                model, model, "macs" if self.cost == "latency" else self.cost, self.fraction, ranking, size
            )
            narrow_cfg = narrow_config(cfg, smaller)
            rebuilt, _ = build_finetuner(narrow_cfg, schema, cfg.trainer.max_epochs, load=False)
            rebuilt.load_state_dict(smaller.state_dict())
            image = torch.rand(2, rebuilt.backbone.in_channels, *size)
            with torch.no_grad():
                outputs = [Traced(network.eval())(image) for network in (smaller, rebuilt)]
            for expected, actual in zip(*outputs, strict=True):
                torch.testing.assert_close(actual, expected)
        except UserError:
            raise
        except Exception as error:  # torch-pruning raises errors of any type
            raise UserError(_refusal(cfg, f"{type(error).__name__}: {first_line(error)[:200]}")) from error
        if self.rounds > 1:
            self.between.check(narrow_cfg)
        return narrow_cfg

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        run = source
        for number in range(1, self.rounds + 1):
            is_last = number == self.rounds
            path = output if is_last else output.with_name(f"{output.name}_round_{number}")
            pruned = RunDirectory(path)
            if not pruned.finished:
                self._prune(run, source, self.fraction ** (number / self.rounds), path)
            run = pruned
            if not is_last:
                trained = RunDirectory(path.with_name(f"{path.name}_trained"))
                run = trained if trained.finished else self.between.apply(pruned, trained.path)
        return run

    def _prune(self, run: RunDirectory, reference: RunDirectory, fraction: float, output: Path) -> None:
        """Make a run from `run` that costs `fraction` of `reference`."""
        cfg = source_config(run)
        model, _ = load_model(run, cfg, plain=True)
        original, _ = load_model(reference, reference.read_config(), plain=True)
        data = build_data(cfg)
        data.assign_as(run.splits)
        if self.ranking.importance == "taylor":
            self._gradients(model, data)
        smaller = prune_to_target(model, original, self.cost, fraction, self.ranking, as_size(cfg.data.image_size))
        remeasure_batchnorm(smaller, (batch["image"] for batch in self._batches(data)))
        description = read_checkpoint(run.checkpoint("best"))["visiontune"]
        description.pop("adapter_scale", None)
        pruned_run = derive_run(run, narrow_config(without_adapters(cfg), smaller), output)
        checkpoint = {"state_dict": smaller.state_dict(), "visiontune": description}
        save_atomically(pruned_run.checkpoints / "best.ckpt", checkpoint)
        finalize_run(pruned_run)

    def _batches(self, data: VisionData) -> Iterator[Batch]:
        """Training images without augmentation."""
        return map(data.to_network, data.eval_loader("train", at_most=self.images))

    def _gradients(self, model: FineTuner, data: VisionData) -> None:
        """Compute gradients of the loss over training images without augmentation."""
        model.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(data.seed)  # two-stage detectors sample proposals
            for batch in self._batches(data):
                losses = [
                    loss
                    for task, raw in model(batch["image"]).items()
                    for loss in model.heads[task].loss(raw, batch["targets"][task]).values()
                ]
                torch.stack(losses).sum().backward()


def narrow_config(cfg: DictConfig, model: FineTuner) -> DictConfig:
    """Add the shapes of the backbone's weights to `cfg`, where they differ from the library's."""
    cfg = derive(cfg, {"backbone.shapes": None, "backbone.weights": None})
    options: Any = OmegaConf.to_container(cfg.backbone, resolve=True)
    size = list(as_size(cfg.data.image_size))
    unpruned, _ = build(**options, in_channels=cfg.data.channels, image_size=size)
    original_shapes = list_shapes(unpruned.model)
    shapes = {
        path: shape for path, shape in list_shapes(model.backbone.model).items() if shape != original_shapes[path]
    }
    return derive(cfg, {"backbone.shapes": shapes})


def _refusal(cfg: DictConfig, reason: str) -> str:
    return (
        f"torch-pruning cannot make {cfg.backbone.name} narrower ({reason}): distil a smaller network with "
        "recipe=distill, or make this one faster with recipe=int8"
    )
