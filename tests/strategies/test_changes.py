"""What changes the steps of a training: each against its formula."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from running import Command
from test_finetuner import GradientRecorder, trainer
from test_frozen import batches, fit, make
from torch import nn

from visiontune.callbacks import L2SP, AutoRGN
from visiontune.errors import UserError
from visiontune.models.backbones import build
from visiontune.optim.sam import Sam
from visiontune.strategies import BitHyperRule, FirstK, Full, LastK, LayerDecay, Lora, LpFt, Strategy
from visiontune.strategies.freezing import batchnorm_buffers
from visiontune.strategies.lora import plain_state
from visiontune.training.load import load_model, open_run, read_checkpoint
from visiontune.training.wise_ft import between

NAMES = ["stem", "one", "two", "three", "heads"]


def test_which_stages_train() -> None:
    assert LastK(NAMES, 4, k=2).trainable(0) == {"two", "three", "heads"}
    assert FirstK(NAMES, 4, k=1).trainable(3) == {"stem", "heads"}
    probing = LpFt(NAMES, 10, probe_epochs=0.3)
    assert [probing.trainable(epoch) == {"heads"} for epoch in range(5)] == [True, True, True, False, False]
    assert probing.trainable(3) == set(NAMES)
    assert [LpFt(NAMES, epochs, probe_epochs=0.2).start for epochs in (1, 2, 3, 10)] == [0, 1, 1, 2]
    assert LpFt(NAMES, 2, probe_epochs=0.9).start == 1


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (partial(LastK, k=5), r"strategy.k=5: the backbone has the 4 stages stem, one, two, three; .* strategy.k=1"),
        (partial(FirstK, k=0), r"strategy.k=0: the backbone has the 4 stages"),
        (partial(LpFt, probe_epochs=1.0), r"strategy.probe_epochs=1.0: a fraction of the 10 epochs"),
        (partial(Full, lr_decay=0.0), r"strategy.lr_decay=0.0: a factor above 0 and at most 1"),
        (
            partial(Full, lr_scales={"blocks": 1.0}),
            r"strategy.lr_scales names stage 'blocks'",
        ),
        (partial(Full, batchnorm="eval"), r"strategy.batchnorm=eval: write frozen or train"),
        (partial(LayerDecay, decay=2), r"strategy.decay=2: a factor above 0"),
        (partial(Full, lr_scales={"stem": -1}), r"strategy.lr_scales={stem: -1}: write a number, 0 or more, such as"),
        (partial(Lora, rank=0), r"strategy.rank=0: write 1 or more"),
        (partial(Lora, alpha=0), r"strategy.alpha=0: write a number above 0, such as strategy.alpha=16"),
        (partial(Lora, dropout="some"), r"strategy.dropout=some: a fraction from 0 and below 1"),
    ],
)
def test_what_cannot_be(strategy: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        strategy(stages=NAMES, epochs=10)


def test_rates_of_named_stages() -> None:
    strategy = Full(NAMES, 1, lr_decay=0.5, lr_scales={"stem": 0.01})
    found = [strategy.lr_scale(name, len(NAMES) - 1 - i) for i, name in enumerate(NAMES)]
    assert found == [0.01, 0.125, 0.25, 0.5, 1.0]


def rates(name: str, decay: float, **options: Any) -> dict[str, float]:
    """Learning rate of every parameter of a network by its name there."""
    network, _ = build(name, weights=None, **options)
    strategy = LayerDecay([*(stage for stage, _ in network.stages()), "heads"], 1, decay=decay)
    groups = strategy.param_groups([*network.stages(), ("heads", nn.Linear(2, 2))], lr=1.0, weight_decay=0.1)
    by_id = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {key: by_id[id(p)] for key, p in network.model.named_parameters()}


@pytest.mark.parametrize("depth", [12, 24])  # of 24 blocks two are a stage
def test_the_rate_of_a_vits_blocks_is_timms(depth: int) -> None:
    """timm's `param_groups_layer_decay` numbers embedding, blocks and head; our head is the FineTuner's."""
    from timm import create_model
    from timm.optim import param_groups_layer_decay

    found = rates("vit_tiny_patch16_224", 0.5, image_size=224, depth=depth)
    theirs = create_model("vit_tiny_patch16_224", pretrained=False, depth=depth)
    names = {id(p): key for key, p in theirs.named_parameters()}
    expected = {
        names[id(p)]: group["lr_scale"]
        for group in param_groups_layer_decay(theirs, weight_decay=0.1, layer_decay=0.5)
        for p in group["params"]
    }
    same = [key for key in found if key.startswith(("blocks.", "patch_embed.", "pos_embed", "cls_token", "norm."))]
    assert len(same) > 12 * depth
    for key in same:
        assert found[key] == pytest.approx(expected[key]), key


def test_the_rate_falls_from_block_to_block_of_a_resnet() -> None:
    found = rates("resnet18", 0.5, image_size=64)
    blocks = [f"layer{layer}.{block}.conv1.weight" for layer in (4, 3, 2, 1) for block in (1, 0)]
    assert [found[key] for key in blocks] == pytest.approx([0.5**i for i in range(1, 9)])
    assert found["conv1.weight"] == pytest.approx(0.5**9)


def test_a_blocks_own_layers_are_no_blocks() -> None:
    """Each of VoVNet's blocks has a sequence of layers that is longer than that of the blocks."""
    found = rates("ese_vovnet39b", 0.5, image_size=64)
    by_block = {
        block: {rate for key, rate in found.items() if key.startswith(f"stages.2.blocks.{block}.")} for block in (0, 1)
    }
    assert all(len(values) == 1 for values in by_block.values())
    assert max(by_block[0]) == pytest.approx(0.5 * min(by_block[1]))


def test_l2_sp_pulls_to_where_the_weights_began() -> None:
    """One SGD step of a loss without a gradient: w - lr * alpha * (w - w0), and w - lr * beta * w in random layers.

    In a pretrained head, only the last layer depends on classes.
    """
    callback = L2SP(alpha=0.5, beta=0.1)
    module: Any = nn.Module()
    head: Any = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    head.class_rows = lambda: dict.fromkeys(["1.weight", "1.bias"])
    random: Any = nn.Linear(2, 1)
    random.is_pretrained, head.is_pretrained = False, True
    module.backbone, module.heads = nn.Linear(2, 2), nn.ModuleDict({"a": random, "b": head})
    callback.on_train_start(SimpleNamespace(ckpt_path=None), module)  # type: ignore[arg-type]
    pulled_back = [module.backbone.weight, head[0].weight]
    start = [weight.detach().clone() for weight in pulled_back]
    with torch.no_grad():
        for weight in pulled_back:
            weight.add_(1.0)
    decayed = [random.weight, head[1].weight]
    before = [weight.detach().clone() for weight in decayed]
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    module.backbone.bias.grad = None  # frozen
    again = L2SP(alpha=0.5, beta=0.1)
    again.load_state_dict(callback.state_dict())  # as a run that goes on
    again.on_train_start(SimpleNamespace(ckpt_path="last.ckpt"), module)  # type: ignore[arg-type]
    again.on_before_optimizer_step(None, module, None)  # type: ignore[arg-type]
    torch.optim.SGD(module.parameters(), lr=0.2).step()
    torch.testing.assert_close(pulled_back, [weight + 1.0 - 0.2 * 0.5 * 1.0 for weight in start])
    torch.testing.assert_close(decayed, [weight * (1 - 0.2 * 0.1) for weight in before])
    assert module.backbone.bias.grad is None


def test_the_rate_follows_the_relative_gradient_norm() -> None:
    one, two = nn.Parameter(torch.full((4,), 2.0)), nn.Parameter(torch.full((4,), 1.0))
    frozen = nn.Parameter(torch.ones(4))
    one.grad, two.grad = torch.full((4,), 0.2), torch.full((4,), 0.4)
    groups = [{"params": [p], "lr": 1.0, "stage": stage} for p, stage in ((one, "a"), (two, "b"), (frozen, "c"))]
    callback: Any = AutoRGN(momentum=0.5)
    optimizer, trainer = SimpleNamespace(param_groups=groups), SimpleNamespace(global_step=0)
    for _ in range(2):  # SAM has two passes a step
        callback.on_before_optimizer_step(trainer, None, optimizer)
        assert [group["lr"] for group in groups] == pytest.approx([0.25, 1.0, 1.0])  # 0.1 and 0.4
    one.grad *= 7  # 0.7, and with the average of both steps 0.4
    for group in groups:
        group["lr"] = 1.0
    trainer.global_step = 1
    callback.on_before_optimizer_step(trainer, None, optimizer)
    assert [group["lr"] for group in groups] == pytest.approx([1.0, 1.0, 1.0])


def test_gradients_that_16_bits_cannot_hold_leave_the_rates_as_they_are() -> None:
    one, two = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    groups = [{"params": [p], "lr": 1.0, "stage": stage} for p, stage in ((one, "a"), (two, "b"))]
    callback: Any = AutoRGN(momentum=0.5)
    one.grad = torch.full((4,), 0.1)
    for step, (value, expected) in enumerate([(torch.inf, 1.0), (torch.nan, 1.0), (0.4, 0.25)]):
        two.grad = torch.full((4,), value)
        callback.on_before_optimizer_step(SimpleNamespace(global_step=step), None, SimpleNamespace(param_groups=groups))
        assert [group["lr"] for group in groups] == pytest.approx([expected, 1.0])


def test_sam_steps_with_the_gradient_uphill() -> None:
    """Of f(w) = |w|^4 / 4 with w = 2: the gradient at 2 + rho is (2 + rho)^3."""
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = Sam(torch.optim.SGD([weight], lr=0.01), rho=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight**4 / 4).sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 4.0
    assert float(weight) == pytest.approx(2.0 - 0.01 * 2.5**3)
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert optimizer.param_groups is optimizer.base.param_groups


def test_sams_second_pass_draws_what_the_first_did_and_leaves_the_statistics_alone(tmp_path: Path) -> None:
    def step(rho: float | None) -> tuple[GradientRecorder, list[torch.Tensor]]:
        model, seen = make("small_cnn", partial(Full, batchnorm="train"), sam=rho), GradientRecorder()
        trainer(tmp_path, max_steps=1, callbacks=[seen]).fit(model, batches("small_cnn"))
        return seen, batchnorm_buffers(model)

    seen, statistics = step(1e-9)
    first, second = seen.steps
    for name, gradient in first.items():  # a fifth of the head's inputs are dropped
        torch.testing.assert_close(gradient, second[name], msg=name)
    for rho in (None, 1.0):
        assert all(map(torch.equal, statistics, step(rho)[1]))


def test_weights_between_two() -> None:
    start = {"w": torch.zeros(3), "count": torch.tensor(1)}
    best = {"w": torch.ones(3), "count": torch.tensor(5)}
    assert between(start, best, 0.25)["w"].tolist() == [0.25] * 3 and int(between(start, best, 0.25)["count"]) == 5


def test_a_depthwise_layer_has_no_adapter_though_another_of_its_name_does() -> None:
    inner = nn.ModuleDict({"conv1": nn.Conv2d(8, 8, 3, groups=8)})
    network = nn.ModuleDict({"conv1": nn.Conv2d(3, 8, 3), "block": inner})
    Lora(NAMES, 1, rank=8).prepare(network)
    assert {name.split(".lora")[0] for name, _ in network.named_parameters() if "lora" in name} == {"conv1"}


def test_between_two_with_adapters_are_the_merged_weights_between_them() -> None:
    adapted = make("test_vit", partial(Lora, rank=2))
    start = {name: value.clone() for name, value in adapted.state_dict().items()}
    fit(adapted, "test_vit")
    best, scale = adapted.state_dict(), {"visiontune": adapted.strategy.describe()}
    first, last, found = (
        plain_state(scale | {"state_dict": state}) for state in (start, best, between(start, best, 0.4))
    )
    for name, value in between(first, last, 0.4).items():
        torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.parametrize("backbone", ["small_cnn", "test_vit", "test_convnext"])
def test_adapters_begin_at_no_change_and_merge_into_the_weights(backbone: str) -> None:
    image = next(iter(batches(backbone)))["image"]
    plain, adapted = make(backbone, Full).eval(), make(backbone, partial(Lora, rank=2)).eval()
    plain.backbone.load_state_dict(plain_state(checkpoint(adapted)), strict=False)
    with torch.no_grad():
        assert torch.equal(plain.backbone(image).embedding, adapted.backbone(image).embedding)
    fit(adapted, backbone)
    merged = plain_state(checkpoint(adapted) | {"state_dict": adapted.eval().state_dict()})
    plain.load_state_dict(merged, strict=True)
    with torch.no_grad():
        before = make(backbone, Full).eval()(image)["kind"]["logits"]
        found, expected = plain.eval()(image)["kind"]["logits"], adapted(image)["kind"]["logits"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - before).abs().max() > 1e-3


def checkpoint(model: Any) -> dict[str, Any]:
    strategy: Strategy = model.strategy
    return {"state_dict": model.backbone.state_dict(), "visiontune": strategy.describe()}


@pytest.mark.parametrize(("samples", "steps"), [(19_999, 500), (20_000, 10_000), (499_999, 10_000), (10**6, 20_000)])
def test_the_rule_counts_steps_by_the_data(samples: int, steps: int) -> None:
    assert BitHyperRule.epochs_for(samples, 7) == -(-steps // 7)
    assert BitHyperRule.epochs_for(samples, 10**6) == 1


# ---- whole runs


def test_the_rule_sets_the_epochs_where_nothing_else_does(command: Command, small: list[str]) -> None:
    outcome = command("plan", *small, "strategy=bit_hyperrule", "data.limit_train=64", "data.batch_size=16")
    assert outcome.code == 0, outcome.err
    assert "125 epochs of 4 steps = 500 steps" in outcome.out and "optimizer:     SGD, schedule step" in outcome.out
    assert "3 epochs of" in command("plan", *small, "strategy=bit_hyperrule", "epochs=3").out
    message = command("plan", *small, "strategy=full", "epochs=null").message
    assert message.startswith("epochs=null: only strategy=bit_hyperrule computes")


@pytest.mark.slow
def test_a_lora_run_is_measured_and_gives_plain_weights(command: Command, tiny: list[str], tmp_path: Path) -> None:
    run = command("train", *tiny, "strategy=lora", "strategy.rank=2", f"run_dir={tmp_path / 'lora'}").run
    opened, cfg = open_run(str(run.path))
    model, _ = load_model(opened, cfg)
    assert any("lora_A" in key for key in model.state_dict())
    assert command("evaluate", f"run={run.path}", "split=val").code == 0
    outcome = command("train", *tiny, f"weights_from={run.path}", "strategy=full")
    assert outcome.code == 0, outcome.err
    merged = plain_state(read_checkpoint(run.checkpoint("best")))
    assert not any("lora" in key or "base_layer" in key for key in merged)
    loaded = outcome.out[outcome.out.index("weights:") :].split("\n\n")[0]
    assert "100.0% of the parameters loaded" in loaded and "missing" not in loaded, loaded
    again = command("plan", *tiny, f"weights_from={run.path}", "strategy=lora", "strategy.rank=2", "optimizer=sgd")
    assert again.code == 0, again.err
    loaded = again.out[again.out.index("weights:") :].split("\n\n")[0]
    assert "not used" not in loaded and "base_layer" not in loaded, loaded  # adapters alone begin anew


@pytest.mark.slow
def test_wise_ft_takes_the_best_between_start_and_best_epoch(command: Command, tiny: list[str], tmp_path: Path) -> None:
    arguments = ["optimizer.lr=0.01", "data.batch_size=8", "technique=[ema,wise_ft]"]
    arguments += ["strategy=full", "technique.wise_ft.factors=[0.3,0.6]"]
    outcome = command("train", *tiny, *arguments, f"run_dir={tmp_path / 'wise'}")
    assert outcome.code == 0, outcome.err
    line = next(line for line in outcome.out.splitlines() if line.startswith("between start (0) and best epoch (1)"))
    scores = {
        float(a): float(b) for a, b in (part.split(": ") for part in line.split(" of ")[1].split(";")[0].split(", "))
    }
    assert set(scores) == {0.3, 0.6, 1.0}
    best = read_checkpoint(outcome.run.checkpoint("best"))
    factor = best["visiontune"]["wise_ft"]
    assert scores[factor] == max(scores.values())
    message = command("train", *tiny, "technique=[wise_ft]", "technique.wise_ft.factors=[2]").message
    assert message.startswith("technique.wise_ft.factors=[2]: expected factors from 0 to 1, got a list; write")


def test_techniques_change_nothing_of_what_trains(command: Command, tiny: list[str]) -> None:
    plain = command("plan", *tiny, "trainer.max_epochs=6").out
    table = plain[plain.index("stage ") :].split("\n\n")[0]
    for techniques in ("none", "[ema,sam]", "[swa,wise_ft,auto_rgn]"):
        assert table in command("plan", *tiny, f"technique={techniques}", "trainer.max_epochs=6").out
    with_l2_sp = command("plan", *tiny, "technique=[ema,l2_sp]", "trainer.max_epochs=6").out
    assert (
        table.replace("0.05 / 0", "0 / 0   ").split()
        == with_l2_sp[with_l2_sp.index("stage ") :].split("\n\n")[0].split()
    )


def test_bad_techniques(command: Command, tiny: list[str]) -> None:
    wrong = command("plan", *tiny, "technique=[auto_rgn,l2_sp]", "technique.l2_sp.alpha=-1").message
    assert wrong.startswith("technique.l2_sp: expected alpha and beta of 0 or more, got -1 and 0.01; write")
    message = command("plan", *tiny, "technique=[sam]", "technique.sam.rho=0").message
    assert message == "technique.sam.rho=0: expected a distance above 0, got 0; write technique.sam.rho=0.05"
    message = command("plan", *tiny, "technique=[sam]", "trainer.accumulate_grad_batches=2").message
    assert message.startswith(
        "technique=[sam] computes two gradients of one batch: write trainer.accumulate_grad_batches"
    )
    message = command("plan", *tiny, "technique=[swa,ema]").message
    assert message == "technique=[ema,swa]: both average the weights; write technique=[ema] or technique=[swa]"


def test_a_strategy_of_a_user_on_the_command_line(command: Command, tiny: list[str]) -> None:
    """As docs/strategies.md has it."""
    outcome = command("plan", *tiny, "strategy=full", "strategy._target_=test_changes.Late", "trainer.max_epochs=4")
    assert next(line for line in outcome.out.splitlines() if line.startswith("block1 ")).split()[2] == "3-4"


class Late(Strategy):
    def trainable(self, epoch: int) -> set[str]:
        return set(self.stages) if 2 * epoch >= self.epochs else {"heads"}


@pytest.mark.parametrize("name", ["linear_probe", "full", "gradual_unfreeze", "lp_ft", "lora", "norm_only", "last_k"])
@pytest.mark.slow
def test_every_strategy_goes_with_techniques(name: str, command: Command, tiny: list[str]) -> None:
    outcome = command("plan", *tiny, f"strategy={name}", "technique=[ema,l2_sp,sam]", "trainer.max_epochs=6")
    assert outcome.code == 0 and "trains in epochs" in outcome.out, outcome.err
