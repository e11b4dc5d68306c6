"""The space of a search, from overrides in Hydra's grammar."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution as Choice
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from visiontune.config.compose import initialized
from visiontune.config.distributions import build_distribution
from visiontune.config.jobs import check_jobs, read_space
from visiontune.config.space import Space
from visiontune.errors import UserError

SEARCH = ["sweep=random"]


def read(*overrides: str) -> Space:
    with initialized(None):
        space = read_space("train", [*SEARCH, *overrides])
    assert space is not None
    return space


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("interval(1e-4,1e-2)", 5e-4, Float(1e-4, 1e-2)),
        ("tag(log,interval(1e-4,1e-2))", 5e-4, Float(1e-4, 1e-2, log=True)),
        ("interval(1,8)", 2, Int(1, 8)),
        ("interval(1,8)", None, Int(1, 8)),
        ("interval(0,1)", 0.5, Float(0, 1)),
        ("interval(1.0,8)", 2, Float(1, 8)),
        ("int(interval(1,8))", 0.5, Int(1, 8)),
        ("tag(log,interval(16,256))", 64, Int(16, 256, log=True)),
        ("range(1,6)", 2, Int(1, 5)),
        ("range(8,33,8)", 8, Int(8, 32, step=8)),
        ("range(5,0,-2)", 8, Int(1, 5, step=2)),
        ("range(0,1,0.25)", 0.0, Float(0, 0.75, step=0.25)),
        ("a,b,a", None, Choice(("a", "b"))),
        ("'a, b','it\\'s',null", None, Choice(("'a, b'", "'it\\'s'", "null"))),
        ("[ema],[ema,sam]", None, Choice(("[ema]", "[ema,sam]"))),
        ("shuffle(choice(1,2,3))", None, Choice(("1", "2", "3"))),
    ],
)
def test_distributions(text: str, default: object, expected: object) -> None:
    override = OverridesParser.create().parse_override(f"key={text}")
    assert build_distribution(override, default) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interval(2,1)", "expected low <= high"),
        ("tag(log,interval(0,1))", "expected 0 < low <= high"),
        ("tag(logs,interval(1,2))", "tag takes log and an interval"),
        ("tag(log,choice(a,b))", "tag takes log and an interval"),
        ("range(3,3)", "expected values, and there are none"),
    ],
)
def test_what_is_no_distribution(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_distribution(OverridesParser.create().parse_override(f"key={text}"))


def test_the_default_config_is_part_of_the_space() -> None:
    space = read(
        "optimizer.lr=interval(1e-4,1e-2)", "technique=[none],[ema]", "strategy=full,lp_ft", "epochs=3", "seed=0,1"
    )
    assert space.defaults == {"optimizer.lr": 5e-4, "technique": "[ema]"}  # gradual_unfreeze is not in the space
    assert space.fixed == ["sweep=random", "epochs=3"] and space.repeats == [["seed=0"], ["seed=1"]]
    assert space.probes() == [
        ["sweep=random", "epochs=3", *job]
        for job in (
            ["seed=0", "optimizer.lr=0.0005", "technique=[ema]", "strategy=full"],
            ["seed=0", "optimizer.lr=0.0001", "technique=[ema]", "strategy=full"],
            ["seed=0", "optimizer.lr=0.01", "technique=[ema]", "strategy=full"],
            ["seed=0", "optimizer.lr=0.0005", "technique=[none]", "strategy=full"],
            ["seed=0", "optimizer.lr=0.0005", "technique=[ema]", "strategy=lp_ft"],
            ["seed=1", "optimizer.lr=0.0005", "technique=[ema]", "strategy=full"],
        )
    ]


def test_globs_and_keys_that_an_option_does_not_have() -> None:
    space = read("strategy=gradual_unfreeze,full", "strategy.head_epochs=interval(1,3)", "augment=glob(s*)")
    assert space.distributions["augment"] == Choice(("standard", "strong"))
    assert space.absent == {"strategy.head_epochs": ["full"]}
    jobs = [job[1:] for job in space.probes()]
    assert jobs[0] == ["strategy=gradual_unfreeze", "strategy.head_epochs=1", "augment=standard"]
    assert ["strategy=full", "augment=standard"] in jobs
    space = read("technique=[ema],[swa],[ema,sam]", "technique.sam.rho=interval(0.01,0.1)")
    assert space.absent == {"technique.sam.rho": ["[ema]", "[swa]"]}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=interval(1e-4,1e-3)"], "an interval is not a list of values; write sweep.sampler=random"),
        (["sweep=tpe", "epochs=3"], "a search needs keys with several values"),
        (["sweep=tpe", "seed=interval(0,5)", "epochs=2,3"], "write seed=0,1,2"),
        (["augment=glob(zz*)"], r"augment=glob\(zz\*\): expected values, and there are none"),
        (["sweep=tpe", "epochs=range(3,3)", "seed=1,2"], r"epochs=range\(3,3\): expected values, and there are none"),
        (["sweep=tpe", "epochs=interval(0,5)"], "epochs=0: expected"),
        (["sweep=tpe", "strategy=full,nosuch"], "nosuch"),
        (
            ["sweep=tpe", "strategy=full,linear_probe", "strategy.head_epochs=1,2"],
            "no option of strategy in this search",
        ),
    ],
)
def test_what_is_no_search(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_jobs("train", overrides, None)
