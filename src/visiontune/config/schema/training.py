"""Keys of the groups trainer, optimizer, scheduler, strategy and technique."""

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import Field

from visiontune.config.schema.types import (
    Count,
    Epochs,
    Flag,
    Fraction,
    Int,
    Node,
    NotNegative,
    Number,
    Positive,
    PositiveFraction,
    Section,
    key,
)


class Trainer(Node):
    """Arguments of `lightning.Trainer`."""

    max_epochs: Epochs | None = key("a whole number from 1 to 1000000", 30)
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = key("auto, cpu, gpu or mps", "cpu")
    devices: Annotated[Int, Ge(1)] | Literal[-1] = key("a number of devices, or -1 for all GPUs", 2)
    strategy: Literal["auto", "ddp"] = key("auto or ddp", "ddp")
    # Other precisions also round the targets, and with them the metrics.
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = key("32-true, 16-mixed or bf16-mixed", "bf16-mixed")
    gradient_clip_val: Positive | None = key("a number above 0, or null", 1.0)
    accumulate_grad_batches: Count = key("a whole number, 1 or more", 4)
    deterministic: Flag | Literal["warn"] = key("true, false or warn", "true")
    sync_batchnorm: Flag = key("true or false", "true")
    log_every_n_steps: Count = key("a whole number, 1 or more", 10)
    detect_anomaly: Flag = key("true or false", "true")
    limit_train_batches: Positive = key("a fraction, or a number of batches, above 0", 10)
    limit_val_batches: Positive = key("a fraction, or a number of batches, above 0", 10)


class Optimizer(Node):
    """Arguments of a `torch.optim.Optimizer`."""

    lr: Positive | Literal["auto"] = key("a number above 0, or auto", 1e-3)
    weight_decay: NotNegative = key("a number, 0 or more", 0.05)
    momentum: NotNegative = key("a number, 0 or more", 0.9)
    betas: Annotated[list[Number], Field(min_length=2, max_length=2)] = key("two numbers", "[0.9,0.999]")


class Scheduler(Node):
    """Arguments of a function of `visiontune.optim.schedulers`."""


class Strategy(Node):
    """Arguments of a `visiontune.strategies.Strategy`."""


class Average(Node):
    horizon: PositiveFraction = key("a fraction of all steps, above 0 and at most 1", 0.1)


class Sam(Section):
    rho: Positive = key("a distance above 0", 0.05)


class WiseFt(Section):
    factors: Annotated[list[Fraction], Field(min_length=1)] = key("factors from 0 to 1", "[0.25,0.5,0.75]")


class Technique(Section):
    """Independent switches; none of them changes what trains."""

    ema: Average | None = key("a mapping", "{horizon: 0.1}")
    swa: Average | None = key("a mapping", "{horizon: 0.25}")
    sam: Sam | None = key("a mapping", "{rho: 0.05}")
    l2_sp: Node | None = key("a mapping", "{alpha: 0.1}")
    wise_ft: WiseFt | None = key("a mapping", "{factors: [0.5]}")
    auto_rgn: Node | None = key("a mapping", "{momentum: 0.9}")
