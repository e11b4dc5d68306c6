"""Keys whose values vary together."""

import pytest
from omegaconf import OmegaConf

from visiontune.config.compose import initialized
from visiontune.config.jobs import check_jobs, read_space
from visiontune.errors import UserError
from visiontune.sweeps.study.jobs import build_search, build_suggestions

PAIRS = ["optimizer.lr=1e-3,5e-4", "data.batch_size=32,64", "sweep.zip=[[optimizer.lr,data.batch_size]]"]


def test_a_grid_pairs_values_by_position() -> None:
    jobs = check_jobs("train", [*PAIRS, "seed=0,1"], None)
    values = [(job.cfg.seed, job.cfg.optimizer.lr, job.cfg.data.batch_size) for job in jobs]
    assert values == [(0, 1e-3, 32), (0, 5e-4, 64), (1, 1e-3, 32), (1, 5e-4, 64)]
    jobs = check_jobs("train", [*PAIRS[:2], "epochs=1,2", "seed=3,4", f"{PAIRS[2][:-1]},[epochs,seed]]"], None)
    values = [(job.cfg.optimizer.lr, job.cfg.epochs, job.cfg.seed) for job in jobs]
    assert values == [(1e-3, 1, 3), (1e-3, 2, 4), (5e-4, 1, 3), (5e-4, 2, 4)]


def test_keys_that_vary_together_are_one_choice_of_a_search() -> None:
    with initialized(None):
        space = read_space("train", ["sweep=random", *PAIRS, "epochs=interval(1,3)"])
    assert space is not None
    assert space.keys == ["epochs", "optimizer.lr", "data.batch_size"]
    assert space.defaults == {"optimizer.lr,data.batch_size": "0.0005,64"}
    probes = space.probes()
    assert len(probes) == 4 and probes[0][-3:] == ["epochs=2", "optimizer.lr=0.0005", "data.batch_size=64"]

    def start(point: dict[str, object]) -> dict[str, object]:
        search = build_search(space, OmegaConf.create({"sampler": "random", "start": [point]}))
        return build_suggestions(space, search, 2)[1].params

    assert start({"optimizer.lr": 1e-3, "data.batch_size": 32}) == {"optimizer.lr,data.batch_size": "0.001,32"}
    with pytest.raises(UserError, match=r"optimizer\.lr=0\.001 is not in 0\.001,32, 0\.0005,64 for optimizer\.lr,data"):
        start({"optimizer.lr": 1e-3, "data.batch_size": 64})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([PAIRS[0], "data.batch_size=32", PAIRS[2]], "data.batch_size is 32; expected a list of values"),
        ([PAIRS[0], PAIRS[2]], r"data.batch_size has no values; .* such as data.batch_size=A,B"),
        (["optimizer.lr=1e-3,2e-3,3e-3", *PAIRS[1:]], "optimizer.lr has 3, data.batch_size has 2"),
        (["sweep=tpe", "optimizer.lr=interval(1e-4,1e-3)", *PAIRS[1:]], "optimizer.lr is interval.* expected a list"),
        ([*PAIRS[:2], "sweep.zip=[[optimizer.lr]]"], "expected lists of two keys or more"),
        ([*PAIRS[:2], "sweep.zip=optimizer.lr"], "expected lists of two keys or more"),
        ([*PAIRS[:2], f"{PAIRS[2][:-1]},[epochs,optimizer.lr]]", "epochs=1,2"], "optimizer.lr is in it twice"),
        (["sweep=tpe", PAIRS[0], "seed=1,2", "sweep.zip=[[optimizer.lr,seed]]"], "leave them out"),
    ],
)
def test_what_cannot_vary_together(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_jobs("train", overrides, None)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("sweep.zip")
