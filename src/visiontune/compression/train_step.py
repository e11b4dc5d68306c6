"""Fine-tuning as a step of a recipe."""

import shutil
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from visiontune.compression.step import Step, source_config
from visiontune.config.compose import train_config
from visiontune.config.derive import derive
from visiontune.config.launch import Launch
from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.train import train
from visiontune.training.fit import prepare
from visiontune.training.resolve import resolve
from visiontune.training.resume import explain_version_mismatch, resume_config
from visiontune.training.trusted import check_overrides

# Keys whose values come from the run, unless the step's overrides set them. All others come from the step's overrides,
# else from the run's command line.
RUN_KEYS = ("name", "data", "augment", "backbone", "heads", "loss_weights", "monitor", "seed", "paths")
SOURCE = "SOURCE"


class TrainStep(Step):
    """Trains a run's network further, or another network on the same data.

    Args:
        overrides: overrides of train, such as ``strategy=lp_ft``, added to those of the run; ``SOURCE`` in them is the
            run's directory.
        from_source: start from the run's weights instead of the weights that the config names.
    """

    def __init__(self, overrides: list[str], from_source: bool = True) -> None:
        self.overrides, self.from_source = overrides, from_source

    def check(self, cfg: DictConfig) -> DictConfig:
        check_overrides(cfg.overrides, cfg.trust)
        train_cfg = self._config(cfg)
        prepare(train_cfg, download=False, load=False)
        return train_cfg

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        run = RunDirectory(output)
        if run.config.is_file():
            with run.lock(), explain_version_mismatch(run):
                cfg, checkpoint = resume_config(run, ["trust=true"])  # `compress` has checked it
                train(cfg, run, checkpoint)
            return run
        shutil.rmtree(output, ignore_errors=True)  # of a process that was killed before training began
        cfg = self._config(source_config(source))
        train(derive(cfg, {"run_dir": str(output)}, without=["overrides"]), overrides=list(cfg.overrides))
        return run

    def _config(self, cfg: DictConfig) -> DictConfig:
        """The resolved config of train for a source with the config `cfg`."""
        step_overrides = [substitute(override, SOURCE, str(cfg.compressed_from)) for override in self.overrides]
        all_overrides = merge_overrides(cfg.overrides, step_overrides)
        composed = train_config(all_overrides)
        if composed.search is not None:
            raise UserError("the run was made with search=strategy: name a strategy in the step, such as strategy=full")
        changes: dict[str, Any] = {key: cfg[key] for key in RUN_KEYS}
        overrides = OverridesParser.create().parse_overrides(step_overrides)
        if all(override.key_or_group != "distill.teacher" for override in overrides):
            changes["distill.teacher"] = cfg.distill.teacher  # absolute; the override may be relative
        if composed.optimizer.lr == "auto":
            changes["optimizer.lr"] = cfg.optimizer.lr  # what the range test chose
        for override in overrides:
            key, _, rest = override.key_or_group.partition(".")
            # Another option or network: drop the keys of the old one.
            if key in RUN_KEYS and (not rest or override.key_or_group == "backbone.name"):
                changes[key] = train_config(step_overrides)[key]
                if key == "backbone":
                    changes["pretrained"] = None  # its weights are of the old network
            elif key in RUN_KEYS:
                changes[override.key_or_group] = override.value()
        changes["trust"] = composed.trust or step_overrides != self.overrides  # the source was opened before
        changes["weights_from"] = str(cfg.compressed_from) if self.from_source else None
        changes["test"] = cfg.test
        train_cfg = resolve(derive(composed, changes), Launch(sets_backbone=True))
        return derive(train_cfg, {"overrides": all_overrides, "compressed_from": cfg.compressed_from})


def substitute(override: str, word: str, path: str) -> str:
    """Replace `word` in an override's value by `path`, and quote the value, since a path may have any character."""
    key, _, value = override.partition("=")
    if word not in value:
        return override
    text = value.replace(word, path).replace("'", "\\'")
    return f"{key}='{text}'"


def merge_overrides(before: list[str], after: list[str]) -> list[str]:
    """Join the overrides of two commands; a key of `after` replaces the same key of `before` and all keys below it."""
    parser = OverridesParser.create()
    new_keys = {_key(override.key_or_group) for override in parser.parse_overrides(after)}
    replaced = new_keys | {"run_dir", "sweep_dir", "weights_from", "name", "debug", "trust", "checkpoints.pause_after"}
    remaining = []
    for override in parser.parse_overrides(before):
        key = _key(override.key_or_group)
        # Quantization-aware training is not inherited.
        if {key, key.partition(".")[0]}.isdisjoint(replaced) and not key.startswith("callbacks.quantization_aware."):
            remaining.append(str(override.input_line))
    return remaining + after


def _key(name: str) -> str:
    key = name.lstrip("+~")
    return "trainer.max_epochs" if key == "epochs" else key
