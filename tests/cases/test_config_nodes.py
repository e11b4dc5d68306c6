"""A node of the config with a wrong `_target_` or argument: exit code 2 and one message, in every place for classes."""

from collections.abc import Callable

import pytest
from running import Outcome, mostly_slow

Plan = Callable[..., Outcome]


CASES = [
    (
        "+data.reader.foo=1",
        "data.reader.foo: visiontune.data.readers.digits.read has no argument foo; its arguments",
    ),
    (
        "data.reader._target_=nope.x",
        "data.reader._target_=nope.x: there is no module nope in the current directory",
    ),
    ("data.reader._target_=os.getcwd", "data.reader: expected a function, such as visiontune.data.readers.image"),
    ("optimizer._target_=torch.optim.Adamm", "torch.optim has no Adamm; near it: Adam, "),
    ("optimizer._target_=torch.optm.Adam", "torch has no optm; near it: optim, "),
    (
        "optimizer._target_=torch.nn.Linear",
        "expected a torch.optim.Optimizer, such as torch.optim.AdamW, got the c",
    ),
    ("optimizer._target_=torch.optim", "torch.optim.AdamW, got the module torch.optim"),
    ("+optimizer.beta=1", "optimizer.beta: torch.optim.AdamW has no argument beta; near it: optimizer.betas"),
    (
        "scheduler._target_=visiontune.optim.schedulers.cosin",
        "visiontune.optim.schedulers has no cosin; near it: cos",
    ),
    (
        "+scheduler.warm=1",
        "scheduler.warm: visiontune.optim.schedulers.cosine has no argument warm; near it: sched",
    ),
    (
        "heads.classification._target_=torch.nn.Linear",
        "expected a Head, such as visiontune.models.heads.Classificat",
    ),
    (
        "+heads.classification.drop=1",
        "ClassificationHead has no argument drop; near it: heads.classification.dropout",
    ),
    (
        "heads.classification.loss={_target_: torch.nn.L1Los}",
        "heads.classification.loss._target_=torch.nn.L1Los: to",
    ),
    (
        "heads.classification.loss={_target_: torch.nn.L1Loss, a: 1}",
        "heads.classification.loss.a: torch.nn.L1Loss ha",
    ),
    ("strategy._target_=visiontune.strategies.Fulll", "visiontune.strategies has no Fulll; near it: Full"),
    ("+strategy.epoch=1", "GradualUnfreeze has no argument epoch; near it: strategy.epochs"),
    (
        "technique.ema._target_=torch.nn.ReLU",
        "technique.ema._target_=torch.nn.ReLU: expected a Callback, such as l",
    ),
    ("+technique.emma={horizon: 0.1}", "technique.emma: unknown key; write one of ema"),
    (
        "+callbacks.mine=3",
        "callbacks.mine=3: expected a Callback, such as lightning.pytorch.callbacks.EarlyStopping, as",
    ),
    (
        "+callbacks.early_stopping.patients=1",
        "EarlyStopping has no argument patients; near it: callbacks.early_stop",
    ),
    (
        "+logger.mine._target_=torch.nn.ReLU",
        "logger.mine._target_=torch.nn.ReLU: expected a Logger, such as vision",
    ),
    ("+trainer.max_epoch=1", "lightning.Trainer has no argument max_epoch; near it: trainer.max_epochs"),
    ("+trainer.profiler={_target_: x.y}", "trainer.profiler._target_=x.y: there is no module x in the current dir"),
    ("+trainer.num_nodes=2", "trainer.num_nodes=2: a run trains on one machine; write ~trainer.num_nodes"),
    ("+checkpoints.every_step=1", "checkpoints.every_step: unknown key; write one of every_steps"),
    ("+augment.flop=1", "augment.flop: unknown key; known are crop"),
]


@pytest.mark.parametrize(("override", "message"), mostly_slow(CASES, *CASES[::6]))
def test_a_wrong_node(override: str, message: str, plan: Plan) -> None:
    assert message in plan("data=digits", "logger=none", override).message


def test_a_wrong_extra_metric(plan: Plan) -> None:
    key = "heads.classification.metrics.kappa.metric"
    inner = "{_target_: torchmetrics.wrappers.MinMaxMetric, base_metric: {_target_: torchmetrics.Kappa}}"
    node = f"heads.classification.metrics={{kappa: {{metric: {inner}, direction: max}}}}"
    message = plan("data=digits", node).message
    assert message.startswith(f"{key}.base_metric._target_=torchmetrics.Kappa: torchmetrics has no Kappa; near it: ")
