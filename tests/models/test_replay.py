"""A network whose first stages are replayed returns the same bits."""

from typing import Any

import pytest
import torch
from running import mostly_slow
from torch import Tensor, nn

from visiontune.models.backbones import Backbone, build
from visiontune.models.replay import IMAGE, FrozenOutputs, ReplayPlan, plan_replay, record_outputs, replay

NETWORKS: dict[str, dict[str, Any]] = {
    "small_cnn": {"widths": [4, 8, 8], "depth": 1},
    "resnet18": {},
    "vgg11": {},
    "densenet121": {},
    "mobilenet_v3_small": {},
    "shufflenet_v2_x0_5": {},
    "swin_t": {},
    "convnext_tiny": {},
    "test_efficientnet": {},
    "test_resnet": {},
    "test_convnext": {},
    "test_vit": {},
}


def network(name: str) -> tuple[Backbone, Tensor]:
    torch.manual_seed(0)
    side = 160 if "vit" in name else 64
    backbone, _ = build(name, weights=None, image_size=side, **NETWORKS[name])
    return backbone.eval(), torch.rand(3, 3, side, side)


def paths(backbone: Backbone, count: int) -> list[str]:
    modules = dict(backbone.model.named_modules())
    return [path for _, stage in backbone.stages()[:count] for path in stage.paths if path in modules]  # type: ignore[union-attr]


@torch.no_grad()
def run_replayed(backbone: Backbone, run: Any, plan: ReplayPlan, image: Tensor) -> Any:
    recorded = record_outputs(run, backbone.model, [path for path in plan.paths if path != IMAGE], image)
    first_input = image if IMAGE in plan.paths else torch.full_like(image, torch.nan)
    with replay(backbone.model, FrozenOutputs(recorded, plan.shapes)):
        return run(first_input)


SLOW = {"vgg11", "densenet121", "swin_t", "convnext_tiny"}


@pytest.mark.parametrize("name", mostly_slow(NETWORKS, *NETWORKS.keys() - SLOW))
def test_every_plan_returns_the_same_embedding(name: str) -> None:
    backbone, image = network(name)

    def run(image: Tensor) -> Tensor:
        return backbone(image).embedding

    with torch.no_grad():
        full = run(image)
    stages = len(backbone.stages())
    assert stages > 2
    for count in range(1, stages + 1):
        plan = plan_replay(run, backbone.model, paths(backbone, count), image[:2])
        assert plan is not None and plan.paths
        assert sum(torch.Size(plan.shapes[path]).numel() for path in plan.paths) <= sum(
            torch.Size(shape).numel() for shape in plan.shapes.values()
        )
        assert torch.equal(run_replayed(backbone, run, plan, image), full), count
        assert all("forward" not in module.__dict__ for module in backbone.model.modules())


def test_after_the_last_stage_only_the_embedding_is_recorded() -> None:
    backbone, image = network("test_efficientnet")
    plan = plan_replay(lambda x: backbone(x).embedding, backbone.model, paths(backbone, len(backbone.stages())), image)
    assert plan is not None and len(plan.paths) == 1
    assert torch.Size(plan.shapes[plan.paths[0]]).numel() == backbone.embedding_dim


def test_maps_of_frozen_stages_and_the_image_are_recorded_where_a_head_reads_them() -> None:
    backbone, image = network("resnet18")

    def run(image: Tensor) -> list[Tensor]:
        features = backbone(image)
        return [*features.maps, features.image * 2]

    plan = plan_replay(run, backbone.model, paths(backbone, 4), image)
    assert plan is not None and IMAGE in plan.paths
    with torch.no_grad():
        for first, second in zip(run_replayed(backbone, run, plan, image), run(image), strict=True):
            assert torch.equal(first, second)
    maps = [plan.shapes[path][0] for path in plan.paths if path != IMAGE]
    assert maps == backbone.channels[: len(maps)] and len(maps) >= 3


def test_later_stages_get_the_same_gradients() -> None:
    backbone, image = network("resnet18")
    for _, stage in backbone.stages()[:3]:
        stage.requires_grad_(False)
    rest = [p for p in backbone.parameters() if p.requires_grad]
    plan = plan_replay(lambda x: backbone(x).embedding, backbone.model, paths(backbone, 3), image)
    assert plan is not None
    with torch.no_grad():
        recorded = record_outputs(lambda x: backbone(x).embedding, backbone.model, list(plan.paths), image)
    expected = torch.autograd.grad(backbone(image).embedding.square().sum(), rest)
    with replay(backbone.model, FrozenOutputs(recorded, plan.shapes)):
        gradients = torch.autograd.grad(backbone(torch.zeros_like(image)).embedding.square().sum(), rest)
    for first, second in zip(gradients, expected, strict=True):
        assert torch.equal(first, second)


class Twice(nn.Module):
    """Calls one module in two places, so that no single output replaces it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scale = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.first(self.scale(x)))


def test_modules_called_twice_are_not_replaced() -> None:
    model, image = Twice().eval(), torch.rand(2, 3, 8, 8)
    plan = plan_replay(model, model, ["first", "scale"], image)
    assert plan is not None and plan.paths == ("first",)  # the second call of scale runs
    assert plan_replay(model, model, ["scale"], image) is None


class Early(nn.Module):
    """A part that trains stands between two that are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.between, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.between(self.first(x))))


def test_what_depends_on_trained_parameters_is_not_recorded() -> None:
    model, image = Early().eval(), torch.rand(2, 3, 8, 8)
    behind = [*model.between.parameters(), *model.last.parameters()]
    plan = plan_replay(model, model, ["first", "second"], image, trained=behind)
    assert plan is not None and plan.paths == ("first",)
    assert all(parameter.requires_grad for parameter in model.parameters())  # as they were


def test_the_image_alone_replaces_nothing() -> None:
    class Unused(Early):
        def forward(self, x: Tensor) -> Tensor:
            self.first(x)
            return self.last(x)

    model = Unused().eval()
    assert plan_replay(model, model, ["first"], torch.rand(2, 3, 8, 8)) is None


@torch.no_grad()
def test_a_second_pass_gives_the_same_where_modules_work_in_place() -> None:  # SAM has two
    model, image = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Hardswish(inplace=True)).eval(), torch.rand(2, 3, 8, 8)
    frozen = FrozenOutputs(record_outputs(model, model, ["0"], image), {"0": (3, 8, 8)})
    expected = model(image)
    for _ in range(2):
        with replay(model, frozen):
            assert torch.equal(model(image), expected)
