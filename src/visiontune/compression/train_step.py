"""Fine-tuning as a step of a recipe: the ordinary train."""

import shutil
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from visiontune.compression.step import Step, config_of
from visiontune.config.compose import train_config
from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.train import train
from visiontune.training.fit import prepare
from visiontune.training.resume import continued, explain_version_mismatch

# What a run is about: taken from the run itself, where the command line of the step does not name it. Everything else
# is what the run's own command line and then that of the step say.
ABOUT = ("name", "data", "augment", "backbone", "heads", "loss_weights", "monitor", "seed", "paths")
SOURCE = "SOURCE"


class TrainStep(Step):
    """Trains a run's network on, or another one beside it.

    Args:
        overrides: of the command line, such as ``strategy=lp_ft``, on top of those that the run was made with;
            ``SOURCE`` in one is the run's directory.
        from_source: begin with the run's weights; else with those that the config names.
    """

    def __init__(self, overrides: list[str], from_source: bool = True) -> None:
        self.overrides, self.from_source = overrides, from_source

    def check(self, cfg: DictConfig) -> DictConfig:
        made = self._config(cfg)
        prepare(made.copy(), download=False, load=False)
        return made

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        run = RunDirectory(output)
        if run.config.is_file():
            with run.lock():
                cfg, checkpoint = continued(run, ["trust=true"])  # who compresses has been asked
                with explain_version_mismatch(run):
                    train(cfg, run, checkpoint)
            return run
        shutil.rmtree(output, ignore_errors=True)  # of a process that was killed before it had begun
        cfg = self._config(config_of(source))
        with open_dict(cfg):
            cfg.run_dir, line = str(output), list(cfg.pop("said"))
        train(cfg, overrides=line)
        return run

    def _config(self, cfg: DictConfig) -> DictConfig:
        """What train is given to make of a run with the config `cfg`."""
        own = [placed(override, SOURCE, str(cfg.compressed_from)) for override in self.overrides]
        line = merged(cfg.said, own)
        made = train_config(line)
        if "candidates" in made.strategy:
            raise UserError("the run was made with strategy=auto: say which in the step, such as strategy=full")
        with open_dict(made):
            for key in ABOUT:
                made[key] = cfg[key]
            overrides = OverridesParser.create().parse_overrides(own)
            if "distill" in cfg and all(o.key_or_group != "distill.teacher" for o in overrides):
                made.distill.teacher = cfg.distill.teacher  # where it lies: `said` may have a relative path
            if made.optimizer.lr == "auto":
                made.optimizer.lr = cfg.optimizer.lr  # what the range test found
            for override in overrides:
                key, _, rest = override.key_or_group.partition(".")
                if key in ABOUT and (not rest or override.key_or_group == "backbone.name"):  # no key of the old one
                    made[key] = train_config(own)[key]
                elif key in ABOUT:
                    OmegaConf.update(made, override.key_or_group, override.value(), force_add=True)
            made.test, made.said, made.compressed_from = cfg.test, line, cfg.compressed_from
            made.weights_from = str(cfg.compressed_from) if self.from_source else None
            made.trust = made.trust or own != self.overrides  # the source has been opened before
            if self.from_source:
                made.backbone.weights = None
        return made


def placed(override: str, word: str, path: str) -> str:
    """An override with `path` where its value has `word`; quoted, since a path may have any character."""
    key, _, value = override.partition("=")
    if word not in value:
        return override
    text = value.replace(word, path).replace("'", "\\'")
    return f"{key}='{text}'"


def merged(before: list[str], after: list[str]) -> list[str]:
    """Both command lines in one: a group that is chosen anew forgets what was said about the old choice."""
    parser = OverridesParser.create()
    said = {_key(override.key_or_group) for override in parser.parse_overrides(after)}
    forgotten = said | {"run_dir", "sweep_dir", "weights_from", "name", "debug"}
    kept = []
    for override in parser.parse_overrides(before):
        key = _key(override.key_or_group)
        # Rounding is of the one training that asked for it.
        if {key, key.partition(".")[0]}.isdisjoint(forgotten) and not key.startswith("callbacks.quantization_aware."):
            kept.append(str(override.input_line))
    return kept + after


def _key(said: str) -> str:
    key = said.lstrip("+~")
    return "trainer.max_epochs" if key == "epochs" else key
