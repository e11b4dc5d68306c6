"""A run whose backbone has fewer channels."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from visiontune.compression.pruning import (
    COSTS,
    IMPORTANCES,
    SCOPES,
    Ranking,
    Traced,
    batchnorms,
    remeasure_batchnorm,
    to_target,
)
from visiontune.compression.step import Step, concluded, config_of, derived, in_floats
from visiontune.compression.train_step import TrainStep
from visiontune.data import VisionData
from visiontune.data.batch import Batch
from visiontune.data.loaders import as_size
from visiontune.errors import UserError
from visiontune.frozen_features.settings import KEYS as CACHE_KEYS
from visiontune.models.backbones import build
from visiontune.models.backbones.narrowing import shapes_of
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import save_atomically
from visiontune.training.build import build_data, build_model
from visiontune.training.load import load_model, read_checkpoint


class Prune(Step):
    """Takes channels from the backbone until the network costs a fraction of what it did; heads keep their widths.

    The run is to be trained on: as it comes out of this step it has lost much of its accuracy.

    Args:
        macs, params, latency: one of them, 0..1: the fraction of multiply-adds, parameters or milliseconds (of one
            image, measured in turn with the original) that stays.
        rounds: in how many steps, each by the same factor; between two of them the run is trained as `overrides` says.
        overrides: of train, between rounds.
        importance, scope, multiple: see `Ranking`.
        images: of the training split, as evaluation sees them: what BatchNorm's statistics are measured on anew, and
            gradients for `importance=taylor`.

    Raises:
        UserError: torch-pruning is not installed, or an argument without meaning.
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
        pictures: int = 512,
    ) -> None:
        if find_spec("torch_pruning") is None:
            raise UserError("pruning needs torch-pruning, an extra of this package: pip install 'visiontune[compress]'")
        targets = {name: value for name, value in zip(COSTS, (macs, params, latency), strict=True) if value is not None}
        if len(targets) != 1 or not 0 < next(iter(targets.values())) < 1:
            raise UserError(
                f"prune to {targets or 'nothing'}: write one of {', '.join(COSTS)} from 0 to 1, such as macs=0.5"
            )
        if importance not in IMPORTANCES or scope not in SCOPES:
            raise UserError(
                f"importance={importance} scope={scope} of prune: write one of {', '.join(IMPORTANCES)}, and one of "
                f"{', '.join(SCOPES)}"
            )
        if min(rounds, multiple, pictures) < 1:
            raise UserError(f"rounds={rounds} multiple={multiple} pictures={pictures} of prune: write 1 or more")
        ((self.cost, self.fraction),) = targets.items()
        self.rounds, self.between = rounds, TrainStep(overrides or [])
        self.ranking, self.pictures = Ranking(importance, scope, multiple), pictures

    def check(self, cfg: DictConfig) -> DictConfig:
        """Prunes a network with random weights, to the end."""
        in_floats(cfg, "prune")
        cfg = without_adapters(cfg)
        schema = build_data(cfg).schema
        model, _ = build_model(cfg, schema, cfg.trainer.max_epochs, load=False)
        size = as_size(cfg.data.image_size)
        if any(hasattr(module, "window_size") for module in model.backbone.modules()):
            raise UserError(_refusal(cfg, "its attention is within windows"))
        if self.ranking.importance == "batchnorm" and not batchnorms(model.backbone):
            raise UserError(
                f"importance=batchnorm of prune: {cfg.backbone.name} has no BatchNorm; write taylor or magnitude"
            )
        ranking = Ranking("magnitude", self.ranking.scope, self.ranking.multiple)
        try:
            # Milliseconds of random weights say no more than multiply-adds do.
            smaller = to_target(
                model, model, "macs" if self.cost == "latency" else self.cost, self.fraction, ranking, size
            )
            made = narrowed(cfg, smaller)
            again, _ = build_model(made, schema, cfg.trainer.max_epochs, load=False)
            again.load_state_dict(smaller.state_dict())
            image = torch.rand(2, again.backbone.in_channels, *size)
            with torch.no_grad():
                outputs = [Traced(network.eval())(image) for network in (smaller, again)]
            for one, other in zip(*outputs, strict=True):
                torch.testing.assert_close(one, other)
        except UserError:
            raise
        except Exception as error:  # torch-pruning fails in as many ways as there are networks that it cannot follow
            raise UserError(_refusal(cfg, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")) from error
        if self.rounds > 1:
            self.between.check(made)
        return made

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        run = source
        for number in range(1, self.rounds + 1):
            last = number == self.rounds
            place = output if last else output.with_name(f"{output.name}_round_{number}")
            pruned = RunDirectory(place)
            if not pruned.finished:
                self._prune(run, source, self.fraction ** (number / self.rounds), place)
            run = pruned
            if not last:
                trained = RunDirectory(place.with_name(f"{place.name}_trained"))
                run = trained if trained.finished else self.between.apply(pruned, trained.path)
        return run

    def _prune(self, run: RunDirectory, reference: RunDirectory, fraction: float, output: Path) -> None:
        """Make of `run` one that costs `fraction` of `reference`."""
        cfg = config_of(run)
        model, _ = load_model(run, cfg, plain=True)
        original, _ = load_model(reference, reference.read_config(), plain=True)
        data = build_data(cfg)
        data.assign_as(run.splits)
        if self.ranking.importance == "taylor":
            self._gradients(model, data)
        smaller = to_target(model, original, self.cost, fraction, self.ranking, as_size(cfg.data.image_size))
        remeasure_batchnorm(smaller, (batch["image"] for batch in self._batches(data)))
        about = read_checkpoint(run.checkpoint("best"))["visiontune"]
        about.pop("adapter_scale", None)
        made = derived(run, narrowed(without_adapters(cfg), smaller), output)
        save_atomically(made.checkpoints / "best.ckpt", {"state_dict": smaller.state_dict(), "visiontune": about})
        concluded(made)

    def _batches(self, data: VisionData) -> Iterator[Batch]:
        return map(data.to_network, data.eval_loader("train", at_most=self.pictures))

    def _gradients(self, model: FineTuner, data: VisionData) -> None:
        """Of the loss over some of the training images as evaluation sees them."""
        model.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(data.seed)  # two-stage detectors draw proposals
            for batch in self._batches(data):
                losses = [
                    loss
                    for task, raw in model(batch["image"]).items()
                    for loss in model.heads[task].loss(raw, batch["targets"][task]).values()
                ]
                torch.stack(losses).sum().backward()


def narrowed(cfg: DictConfig, model: FineTuner) -> DictConfig:
    """`cfg` with the shapes of the backbone's weights wherever they are others than the library's."""
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.backbone.shapes, cfg.backbone.weights = None, None
    options: Any = OmegaConf.to_container(cfg.backbone, resolve=True)
    size = list(as_size(cfg.data.image_size))
    plain, _ = build(**options, in_channels=cfg.data.channels, image_size=size)
    whole = shapes_of(plain.model)
    with open_dict(cfg):
        cfg.backbone.shapes = {
            path: shape for path, shape in shapes_of(model.backbone.model).items() if shape != whole[path]
        }
    return cfg


def without_adapters(cfg: DictConfig) -> DictConfig:
    """The config of a run whose adapters are merged into the weights."""
    cfg = cfg.copy()
    if cfg.strategy.get("_target_", "").endswith(".Lora"):
        with open_dict(cfg):
            cfg.strategy = {key: cfg.strategy[key] for key in CACHE_KEYS if key in cfg.strategy}
    return cfg


def _refusal(cfg: DictConfig, reason: str) -> str:
    return (
        f"torch-pruning cannot make {cfg.backbone.name} narrower ({reason}): teach a smaller network instead with "
        "recipe=distill, or make this one faster with recipe=int8"
    )
