"""Two ranks (gloo) train every strategy with equal weights, also when stages unfreeze, and as one process does."""

import shutil
import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from running import TINY, strategy_overrides
from watching import States, fit_all

from visiontune.runs import RunDirectory
from visiontune.runs.log import logging_to
from visiontune.train import record
from visiontune.training.build import build_trainer
from visiontune.training.fit import fit, prepare

EPOCHS = 3
TRAINING = ["optimizer=sgd", "scheduler=constant", "optimizer.lr=0.5", "scheduler.warmup=0", "augment=none"]
BASE = [f"trainer.max_epochs={EPOCHS}", "trainer.limit_val_batches=1", "data.batch_size=8"]
UNFREEZING = ["strategy.head_epochs=1", "strategy.unfrozen_by=0.7"]  # block2 trains from epoch 1, block1 from 2
# Name of the case (the first word is the strategy) -> overrides.
CASES: dict[str, list[str]] = {
    "linear_probe": [],
    "full": [],
    "gradual_unfreeze": UNFREEZING,
    "gradual_unfreeze accumulated": [*UNFREEZING, "trainer.accumulate_grad_batches=3"],  # three batches, then one
    "gradual_unfreeze stalled": ["strategy.patience=1"],
    "lp_ft": ["strategy.probe_epochs=0.34"],
    "last_k": ["strategy.k=1"],
    "first_k": ["strategy.k=1"],
    "discriminative": [],
    "layer_decay": [],
    "norm_only": [],
    "bias_only": [],
    "lora": ["strategy.rank=2"],
    "l2_sp": ["probe=true", "optimizer.lr=0.05"],
    "auto_rgn": [],
    "wise_ft": [],
    "swa": ["technique.swa.horizon=0.8"],
    "sam": [],
    "bit_hyperrule": [],
    "gradual_unfreeze+l2_sp+auto_rgn+sam": UNFREEZING,
    # BatchNorm statistics are averaged over the ranks, and differ from those of one process.
    "ema learning": ["strategy.batchnorm=train"],
}
COMPARED_WITH_ONE_PROCESS = [name for name in CASES if "learning" not in name]


def train_all(names: list[str], config: Callable[..., DictConfig], root: Path) -> None:
    """Train each case in this process (`root/NAME`) and in two (`root/NAME, two`)."""
    tiny = [override for override in TINY if not override.startswith(("trainer=", "trainer.max"))]
    paths = []
    for name in names:
        case_overrides = CASES[name]
        strategy = name.split()[0]
        training = TRAINING[2:] if strategy == "bit_hyperrule" else TRAINING  # which sets optimizer and scheduler
        for where, settings in ((name, ["trainer=cpu", "data.batch_size=16"]), (f"{name}, two", ["trainer=ddp_cpu"])):
            run = RunDirectory.create(root / where)
            watch = ["+callbacks.weights._target_=watching.Weights", f"+callbacks.weights.folder='{run.path}'"]
            overrides = [*BASE, *strategy_overrides(strategy), *training, *case_overrides, *settings, *watch]
            run.write_config(config(*overrides, base=tiny))
        with logging_to(None, quiet=True):
            single, cfg = RunDirectory.open(root / name), RunDirectory.open(root / name).read_config()
            data, model, _ = prepare(cfg)
            record(cfg, single, data, [])
            shutil.copy(single.splits, run.splits)
            paths.append(run.path)
            if name in COMPARED_WITH_ONE_PROCESS:
                fit(cfg, single, build_trainer(cfg, single, model), model, data, None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(fit_all, (2, port, paths), nprocs=2)


def largest_difference(first: States, second: States) -> float:
    """The largest difference of any weight in any epoch."""
    assert len(first) == len(second) == EPOCHS + 1
    assert [state.keys() for state in first] == [state.keys() for state in second]
    pairs = [(value, b[key]) for a, b in zip(first, second, strict=True) for key, value in a.items()]
    return float(torch.stack([(a.double() - b.double()).abs().max() for a, b in pairs]).max())


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    "names", [["gradual_unfreeze"], pytest.param(list(CASES), marks=pytest.mark.slow)], ids=["one", "all"]
)
def test_ranks_are_equal_and_train_as_one_process(
    names: list[str], config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    train_all(names, config, tmp_path)
    states: dict[str, tuple[States, States]] = {}
    between_ranks, from_one_process, changes = {}, {}, {}
    for name in names:
        first, second = (torch.load(tmp_path / f"{name}, two" / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        states[name] = first, second
        between_ranks[name] = largest_difference(first, second)
        if name in COMPARED_WITH_ONE_PROCESS:
            from_one_process[name] = largest_difference(first, torch.load(tmp_path / name / "0.pt", weights_only=True))
        head = "trained/heads.classification.linear.weight"
        changes[name] = float((first[-1][head] - first[0][head]).abs().max())
    assert {name: value for name, value in between_ranks.items() if value != 0.0} == {}
    assert {name: value for name, value in from_one_process.items() if not value < 1e-5} == {}
    assert {name: value for name, value in changes.items() if not value > 0.01} == {}  # they did train

    def changed_epochs(name: str) -> list[list[bool]]:
        """Whether the weights of block2 and of block1 changed in each epoch."""
        keys = [f"trained/backbone.model.block{n}.conv1.weight" for n in (2, 1)]
        return [[float((b[key] - a[key]).abs().max()) > 1e-4 for a, b in pairwise(states[name][0])] for key in keys]

    by_epochs = {"gradual_unfreeze", "gradual_unfreeze accumulated", "gradual_unfreeze+l2_sp+auto_rgn+sam"}
    for name in by_epochs.intersection(names):
        assert changed_epochs(name) == [[False, True, True], [False, False, True]], name
    assert "gradual_unfreeze stalled" not in names or changed_epochs("gradual_unfreeze stalled")[0][-1]
