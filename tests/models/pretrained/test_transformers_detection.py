"""Detectors of transformers against ours, filled from the folder that the library saves."""

from copy import deepcopy
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from library_steps import train_both
from running import mostly_slow
from torch import Tensor

from visiontune.config.compose import config_dir, train_config
from visiontune.config.launch import Launch
from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.errors import UserError
from visiontune.models.finetuner import FineTuner
from visiontune.models.transformers_library import import_transformers
from visiontune.training.build import build_finetuner
from visiontune.training.resolve import resolve

SIZES = ((64, 64), (64, 96), (96, 64), (128, 64), (96, 96))  # (H, W)
SMALL = {
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "decoder_layers": 3,
    "num_queries": 20,
    "num_denoising": 12,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
WIDTHS = [8, 16, 24, 32]
CONV = {"hidden_sizes": WIDTHS, "embedding_size": 8, "depths": [1] * 4}
STAGES = {
    "hidden_sizes": WIDTHS,
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 8, 16, 24],
    "stage_mid_channels": [8] * 4,
    "stage_out_channels": WIDTHS,
    "stage_num_blocks": [1] * 4,
    "stage_numb_of_layers": [1] * 4,
}
# Name of our YAML -> classes of the library, options of the backbone, of its config only, and of the model.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "rtdetr_v2_r18vd": ("RTDetrV2", CONV, {"model_type": "rt_detr_resnet", "layer_type": "basic"}, {}),
    "dfine_s": ("DFine", STAGES, {"model_type": "hgnet_v2", "use_learnable_affine_block": True}, {"depth_mult": 0.34}),
}
EXTRA = {
    "rtdetr_v2_r18vd": {"hidden_expansion": 0.5},
    "dfine_s": {"hidden_expansion": 0.5, "decoder_n_points": [3, 6, 3]},
}
KEPT, FRESH = ["person", "auto"], "unicorn"


def library_model(name: str) -> Any:
    """The library's model with 80 classes and random weights that differ everywhere."""
    prefix, backbone, only_config, options = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(
        **SMALL | EXTRA[name] | options,
        num_labels=80,
        backbone_config=backbone | only_config | {"out_indices": [2, 3, 4]},
        encoder_in_channels=WIDTHS[1:],
        decoder_in_channels=[32] * 3,
    )
    model = getattr(transformers, f"{prefix}ForObjectDetection")(config)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.add_((0.3 if "class_embed" in key else 0.03) * torch.randn_like(tensor))  # scores differ
            if key.endswith("normalization.weight"):
                tensor.add_(1)
    return model


def our_model(name: str, folder: Path, classes: list[str], *overrides: str) -> tuple[FineTuner, str]:
    _, backbone, _, _ = MODELS[name]
    values = [f"++backbone.{key}={value}" for key, value in backbone.items()]
    values += [f"++heads.detection.transformer.{key}={value}" for key, value in (SMALL | EXTRA[name]).items()]
    keys = [f"pretrained={name}", "heads=detection", "data=digit_scenes", "trainer=cpu", f"pretrained.weights={folder}"]
    cfg = resolve(train_config([*keys, *values, *overrides]), Launch())
    torch.manual_seed(1)
    model, report = build_finetuner(cfg, {"detection": TaskInfo("detection", classes)}, epochs=1, download=False)
    return model, str(report)


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, FineTuner, str, Path]:
    """The library's model, ours with the same 80 classes, its name and the folder of its weights."""
    folder = tmp_path_factory.mktemp(request.param)
    library = library_model(request.param)
    library.save_pretrained(folder)
    classes = yaml.safe_load((config_dir() / "pretrained" / "coco80.yaml").read_text())["pretrained"]["classes"]
    ours, report = our_model(request.param, folder, classes)
    assert "100.0% of the parameters loaded" in report
    return library.eval(), ours.eval(), request.param, folder


def make_targets(size: tuple[int, int]) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """The labels of two images as the library wants them, and as ours does; the second image has no objects."""
    boxes = torch.tensor([[0.25, 0.375, 0.25, 0.25], [0.625, 0.5, 0.375, 0.25], [0.5, 0.75, 0.125, 0.125]])  # exact
    labels = torch.tensor([0, 2, 79])
    height, width = size
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    corners = corners * torch.tensor([width, height, width, height])
    none = torch.zeros(0, dtype=torch.long)
    library = [{"class_labels": labels, "boxes": boxes}, {"class_labels": none, "boxes": boxes[:0]}]
    ours = [
        {"labels": labels, "boxes": corners, "crowd": torch.zeros(3, dtype=torch.bool)},
        {"labels": none, "boxes": corners[:0], "crowd": torch.zeros(0, dtype=torch.bool)},
    ]
    return library, ours


def test_equals_library(pair: Any) -> None:
    library, ours, _, _ = pair
    head: Any = ours.heads["detection"]
    for size in SIZES:
        image = torch.rand(2, 3, *size)
        with torch.no_grad():
            expected, raw = library(image), ours(image)["detection"]
        outputs = head.detector.predict(raw)
        logits, boxes = outputs["logits"], outputs["boxes"]
        torch.testing.assert_close(logits, expected.logits, rtol=0, atol=1e-5)
        scale = torch.tensor([size[1], size[0], size[1], size[0]])
        torch.testing.assert_close(boxes * scale, expected.pred_boxes * scale, rtol=0, atol=1e-3)
        processor = transformers.RTDetrImageProcessor()
        objects = processor.post_process_object_detection(expected, threshold=0.05, target_sizes=[size, size])
        frame = Frame.whole(*size)
        for one, other in zip(objects, head.decode(raw, [frame, frame]), strict=True):
            count = len(one["scores"])  # at most as many as there are queries, which are fewer than max_detections here
            assert count > 10
            boxes = one["boxes"].clamp(min=0).minimum(scale)
            different = (other["boxes"] - boxes[:, None]).abs().amax(2) > 1e-3
            different |= (other["scores"] - one["scores"][:, None]).abs() > 1e-5
            different |= other["labels"] != one["labels"][:, None]
            assert not different[:, : count + 5].all(1).any()  # equal scores may change places


@pytest.mark.parametrize("steps", mostly_slow([2, 10], 2))
def test_loss_and_steps_equal_library(pair: Any, steps: int) -> None:
    """Steps with denoising queries, and images of which one or (in the second step) both have no objects."""
    library, ours = (deepcopy(model).train() for model in pair[:2])
    head: Any = ours.heads["detection"]

    def draw(step: int) -> tuple[Tensor, list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        size = SIZES[step % len(SIZES)]
        image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(step))
        labels, targets = make_targets(size)
        return (image, [labels[1]] * 2, [targets[1]] * 2) if step == 1 else (image, labels, targets)

    def library_loss(step: int) -> Tensor:
        image, labels, _ = draw(step)
        return library(image, labels=labels).loss

    def our_loss(step: int) -> Tensor:
        image, _, targets = draw(step)
        return torch.stack(list(head.loss(ours(image)["detection"], targets).values())).sum()

    train_both((library, library_loss), (ours, our_loss), steps, max_norm=1.0)
    weights = {key.removeprefix("model."): value for key, value in library.state_dict().items()}
    state = {key.removeprefix("network."): value for key, value in head.detector.state_dict().items()}
    state |= {f"backbone.model.{key}": value for key, value in ours.backbone.model.state_dict().items()}
    assert len(state) > 250
    for key, value in state.items():
        torch.testing.assert_close(value, weights[key], rtol=1e-4, atol=1e-4, msg=key)


def test_kept_rows(pair: Any) -> None:
    """Rows of person and car are those of the weights, in each layer; the predictions of person are the library's."""
    library, _, name, folder = pair
    ours, report = our_model(name, folder, ["person", FRESH, "auto"], "pretrained.map={auto: car}")
    assert "kept rows: person, auto; fresh: unicorn" in report
    head: Any = ours.heads["detection"]
    weights = {key.removeprefix("model."): value for key, value in library.state_dict().items()}
    state = {key.removeprefix("network."): value for key, value in head.detector.state_dict().items()}
    names = [key.removeprefix("detector.network.") for key in head.class_rows()]
    assert {key for key, value in weights.items() if 80 <= len(torch.atleast_1d(value)) <= 81 and key in state} == {
        *names
    }
    for key in names:
        assert torch.equal(state[key][[0, 2]], weights[key][[0, 2]])
        # Labels of denoising queries begin random, so that they differ.
        is_mean = torch.equal(state[key][1], weights[key][:80].mean(0))
        assert is_mean == (key != "denoising_class_embed.weight")
        assert torch.equal(state[key][3:], weights[key][80:])  # of the denoising queries without an object
    ours.eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        logits = head.detector.predict(ours(image)["detection"])["logits"]
        expected = library(image).logits
    assert logits.shape == (1, 20, 3) and expected.shape == (1, 20, 80)


def test_more_objects_than_queries_and_more_queries_than_cells(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours, _, _ = pair
    head: Any = ours.heads["detection"]
    (note,) = head.data_notes([[0] * 30], "heads.detection")
    assert "1 image has more objects than the 20" in note and "heads.detection.transformer.num_queries=30" in note
    monkeypatch.setattr(head.detector, "queries", 40)
    with pytest.raises(UserError, match=r"32x32 pixels give 21 cells .* 40 queries .*\+\+.*num_queries=21"):
        head.detector.check_size((32, 32))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.image_size=100"], r"image_size=\[100, 100\].*multiples of 32; write e.g. data.image_size=96"),
        (["heads.detection.hidden=8"], r"hidden is an option of .*detector=faster_rcnn.*hidden=null"),
        (
            ["+heads.detection.transformer.num_query=8"],
            r"num_query: .* has no such argument; near it: .*transformer.num_queries",
        ),
        (
            ["pretrained.classes=null"],
            r"pretrained.classes has no class: expected the classes .*classes=\[cat,dog\]",
        ),
        ([], r"no config.json there; write a folder"),
    ],
)
def test_what_is_refused(overrides: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        our_model("dfine_s", tmp_path, ["a"], *overrides)


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, words in (
        ("5.17.0", "needs transformers 5.18 or newer, and 5.17.0 is installed"),
        (None, "not installed"),
    ):
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version or missing())
        with pytest.raises(UserError, match=words):
            import_transformers("pretrained=x")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "6.0rc1")
    assert import_transformers("pretrained=x").__name__ == "transformers"


def missing() -> str:
    raise PackageNotFoundError


def test_objects_of_all_ranks_divide_the_loss(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 objects here and 9 on another rank, the loss is half as large: 6 on average."""
    _, ours, _, _ = pair
    image, (_, targets) = torch.rand(2, 3, 64, 64), make_targets((64, 64))
    head: Any = ours.heads["detection"]

    def compute_loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(torch.stack(list(head.loss(ours(image)["detection"], targets).values())).sum())

    alone = compute_loss()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: value.add_(9))
    assert compute_loss() == pytest.approx(alone / 2, rel=1e-5)
