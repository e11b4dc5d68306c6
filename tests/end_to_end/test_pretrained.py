"""A run that begins from a whole pretrained model, and what reads its weights later."""

import csv
import re
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from running import Command
from torchvision.models import get_model, get_model_weights

NAME = "lraspp_mobilenet_v3_large"  # the smallest, 3 M parameters
RUN = [f"pretrained={NAME}", "heads=segmentation", "data=digit_scenes", "data.scenes=24", "data.image_size=64"]
RUN += ["data.batch_size=8", "data.num_workers=0", "trainer=cpu", "logger=none", "technique=none"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_run_begins_at_its_pretrained_model(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is validated before the first step. A resumed run, `evaluate` and a run from its weights need no download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    file = tmp_path / "hub" / "checkpoints" / Path(urlparse(get_model_weights(NAME).DEFAULT.url).path).name
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    model = get_model(NAME, weights=None, weights_backbone=None, num_classes=21)
    torch.save(model.state_dict(), file)

    destructive = ["monitor=val/segmentation/loss", "optimizer.lr=100", "strategy=head_only"]
    outcome = command(
        "train", *RUN, *destructive, "epochs=1", "pretrained.map={7: person}", f"run_dir={tmp_path / 'run'}"
    )
    run = outcome.run
    assert "missing, initialised: backbone.model.classifier.0.weight, backbone.model.classifier.0.bias\n" in outcome.out
    assert (
        "  kept rows: background, 7; fresh: 0, 1, 2, 3, 4, 5, 6, 8, 9 (pretrained.map={0: NAME}" in run.log.read_text()
    )
    with run.history.open(newline="") as rows:
        epochs = [row["epoch"] for row in csv.DictReader(rows) if row["val/segmentation/miou"]]
    assert epochs == ["0", "1"]
    best, last = (torch.load(run.checkpoint(name), weights_only=True) for name in ("best", "last"))
    assert best["visiontune"]["epochs"] == 0 and last["visiontune"]["epochs"] == 1  # no training is the best here
    moved = {key for key, value in last["state_dict"].items() if not torch.equal(value, best["state_dict"][key])}
    layers = ("low_classifier", "high_classifier.1")
    key = "heads.segmentation.decoder.layers"
    assert moved == {f"{key}.{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    rows = best["state_dict"][f"{key}.low_classifier.weight"][[0, 8]]
    assert torch.equal(rows, model.state_dict()["classifier.low_classifier.weight"][[0, 15]])  # background, person

    file.unlink()  # nothing below may need it
    outcome = command("train", f"run={run.path}", "epochs=2")
    assert outcome.code == 0 and re.search(r"^epoch 2/2 ", outcome.out, re.M), outcome.err
    assert command("evaluate", f"run={run.path}", "accelerator=cpu").code == 0
    outcome = command("plan", *RUN, f"weights_from={run.path}")
    assert re.search(r"^weights: run run: \d+ tensors matched, 100.0% of the parameters loaded", outcome.out, re.M)
    assert "would be downloaded" in command("plan", *RUN).out
