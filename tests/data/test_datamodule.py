"""From YAML to batches: the same ones whatever the workers, epochs or ranks."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from visiontune.data import VisionData, _select_tasks, build_data, image_loader, to_network
from visiontune.data.dataset import VisionDataset
from visiontune.data.geometry import ShortSide
from visiontune.data.images import load_image, load_images
from visiontune.data.mixing import BatchMixer
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.data.target_transforms import Measure, Measurement
from visiontune.errors import UserError

Make = Callable[..., VisionData]
AUGMENTS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "augment").glob("*.yaml"))


def epoch(loader: DataLoader, number: int) -> list[torch.Tensor]:
    loader.batch_sampler.set_epoch(number)
    return [batch["image"] for batch in loader]


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_digits_as_shipped(make: Make) -> None:
    data = make("data=digits")
    assert data.num_workers == 0 and data.root is None and data.notes == []
    assert [len(data.samples(split)) for split in ("train", "val", "test")] == [1258, 269, 270]
    counts = data.counts()
    assert sum(counts["test"]["classification"].values()) == 270
    assert min(counts["test"]["classification"].values()) >= 26
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (64, 3, 64, 64) and batch["image"].dtype == torch.float32
    assert batch["image"].amax() == 1 and batch["size"].unique().tolist() == [8]
    assert batch["path"] == [sample.path for sample in data.samples("val")[:64]]
    assert batch["targets"]["classification"] == [s.targets["classification"] for s in data.samples("val")[:64]]
    assert batch["index"].tolist() == list(range(64))
    assert data.steps_per_epoch() == len(data.train_dataloader()) == 20 and data.steps_per_epoch(world=2) == 10


def test_rows_for_splits_csv(photos: Path, make: Make) -> None:
    data = make("data=image_folder", f"data.root={photos}", "data.image_size=16")
    rows = data.splits_rows()
    assert len(rows) == 40 and set(rows[0]) == {"path", "split", "group", "content", "labels"}
    assert len({row["content"] for row in rows}) == 40 and all(len(row["content"]) == 32 for row in rows)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_augmentation_depends_on_seed_epoch_and_sample_alone(photos: Path, make: Make, augment: str) -> None:
    overrides = [f"augment={augment}", "data=image_folder", f"data.root={photos}", "data.image_size=16"]
    data = make(*overrides, "data.batch_size=8", "data.num_workers=0")
    first, later = epoch(data.train_dataloader(), 0), epoch(data.train_dataloader(), 1)
    torch.manual_seed(12345)  # what else was drawn makes no difference, and drawing leaves no trace
    before = torch.get_rng_state()
    again = make(*overrides, "data.batch_size=8", "data.num_workers=0")
    assert equal(epoch(again.train_dataloader(), 1), later)
    assert torch.equal(torch.get_rng_state(), before)
    assert not equal(first, later)
    if augment != "none":
        dataset = data.dataset("train", augmented=True)
        assert not torch.equal(dataset[0, 0]["image"], dataset[1, 0]["image"])
        assert torch.equal(dataset[0]["image"], dataset[0, 0]["image"])


def test_workers_make_no_difference(photos: Path, make: Make) -> None:
    overrides = ["augment=strong", "data=image_folder", f"data.root={photos}", "data.image_size=16"]
    alone = make(*overrides, "data.num_workers=0", "data.batch_size=8").train_dataloader()
    helped = make(*overrides, "data.num_workers=2", "data.batch_size=8").train_dataloader()
    for number in (0, 1):  # the workers live on from epoch to epoch
        assert equal(epoch(alone, number), epoch(helped, number))


@pytest.mark.slow
def test_many_objects_come_through_the_usual_limit_of_open_files() -> None:
    """A tensor of a data-loader worker is an open file: 8 an image with masks, of 1,024 that most systems give."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 20_000))\n"
        "from visiontune.data import build_data\n"
        "reader = {'_target_': 'visiontune.data.readers.digit_scenes.read', 'scenes': 640, 'scene_size': 64}\n"
        "data = {'reader': reader, 'image_size': 64, 'batch_size': 64, 'num_workers': 2}\n"
        "data = build_data(data, tasks=['instances'])\n"
        "print(sum(len(batch['targets']['instances']) for batch in data.val_dataloader()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "64", done.stderr[-2000:]


def test_evaluation_is_not_augmented(photos: Path, make: Make) -> None:
    data = make("augment=strong", "data=image_folder", f"data.root={photos}", "data.image_size=16")
    loader = data.eval_loader("train")
    assert equal(epoch(loader, 0), epoch(loader, 5))
    plain = make("augment=none", "data=image_folder", f"data.root={photos}", "data.image_size=16")
    assert equal(epoch(loader, 0), epoch(plain.eval_loader("train"), 0))


def test_pictures_kept_in_memory(tmp_path: Path, picture: Callable[..., Path], make: Make) -> None:
    root = tmp_path / "large"
    for name, seeds in (("a", range(10)), ("b", range(10, 20))):
        for seed in seeds:
            picture(root / name / f"{seed}.png", seed, size=(90, 120))
    overrides = ["data=image_folder", f"data.root={root}", "data.image_size=16", "data.num_workers=0"]
    data = make(*overrides, "data.cache=memory")
    kept, training = data.val_dataloader(), data.train_dataloader()
    for path in root.rglob("*.png"):
        path.rename(path.with_suffix(".moved"))
    batch = next(iter(kept))
    assert isinstance(training.dataset, VisionDataset) and training.dataset._cached is not None
    assert training.dataset._cached[0][0].shape == (3, 24, 32)
    assert next(iter(training))["image"].shape[1:] == (3, 16, 16)
    for path in root.rglob("*.moved"):
        path.rename(path.with_suffix(".png"))
    straight = next(iter(make(*overrides).val_dataloader()))
    assert torch.equal(batch["image"], straight["image"])
    assert torch.equal(batch["size"], straight["size"]) and batch["size"][0].tolist() == [90, 120]


def test_measurements_kept_in_memory_are_not_interpolated() -> None:
    image = torch.randint(0, 255, (3, 90, 120), dtype=torch.uint8)
    depth = tv_tensors.Image(torch.randint(0, 3, (1, 90, 120)).float())
    depth[0, :9] = torch.nan
    transform = v2.Compose([Measure(), ShortSide((24, 32))])
    dataset = VisionDataset([Sample("0", {"depth": depth}, image=image)], None, transform, tasks=["depth"])
    dataset.keep_in_memory((30, 40))
    target = dataset[0]["targets"]["depth"]
    assert isinstance(target, Measurement) and target.shape == (1, 24, 32)
    assert set(target[~target.isnan()].tolist()) == {0.0, 1.0, 2.0}


def test_batches_as_the_network_takes_them() -> None:
    batch = {"image": torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).repeat(2, 1, 4, 4), "path": ["a"]}
    ready = to_network(batch)
    assert ready["image"].dtype == torch.float32 and ready["path"] == ["a"]
    assert ready["image"][0, :, 0, 0].tolist() == pytest.approx([0, 0.2, 1])
    assert ready["image"].is_contiguous(memory_format=torch.channels_last)


def test_loose_pictures(photos: Path, make: Make) -> None:
    data = make("data=image_folder", f"data.root={photos}", "data.image_size=[16,24]", "data.resize=letterbox")
    paths = [photos / sample.path for sample in data.samples("val")]
    names = [path.name for path in paths]
    loader = image_loader(lambda: zip(names, load_images(paths), strict=True), image_size=(16, 24), resize="letterbox")
    batch = next(iter(loader))
    assert batch["targets"] == {} and batch["path"] == names and batch["index"].tolist() == list(range(len(paths)))
    assert torch.equal(batch["original_image"][0], load_image(paths[0]))
    assert torch.equal(batch["image"], next(iter(data.val_dataloader()))["image"])


def test_balanced_from_yaml(photos: Path, make: Make) -> None:
    data = make("data=image_folder", f"data.root={photos}", "data.image_size=16", "data.balanced=true")
    weights = data.train_dataloader().batch_sampler.weights
    labels = [sample.targets["classification"] for sample in data.samples("train")]
    totals = [sum(float(w) for w, x in zip(weights, labels, strict=True) if x == label) for label in range(3)]
    assert totals == pytest.approx([1, 1, 1])


def test_ranks_come_from_the_trainer(make: Make) -> None:
    data = make("data=digits", "data.batch_size=32")
    one = make("data=digits", "data.batch_size=64").train_dataloader().batch_sampler
    seen = []
    for rank in range(2):
        root = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=root)
        seen.append(next(iter(data.train_dataloader().batch_sampler)))
    assert set(seen[0]) | set(seen[1]) == set(next(iter(one))) and len(seen[0]) == 32


class Recorder(L.LightningModule):
    """Notes what the Trainer hands over."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.training_batches: list[dict] = []
        self.validation_batches: list[dict] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.training_batches.append(batch)
        return self.weight * batch["image"].mean()

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.validation_batches.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_under_the_trainer(photos: Path, make: Make, tmp_path: Path) -> None:
    data = make("augment=mixup", "data=image_folder", f"data.root={photos}", "data.image_size=16", "data.batch_size=8")
    module = Recorder()
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=data)
    orders = [batch["index"].tolist() for batch in module.training_batches]
    assert len(orders) == 8 and orders[:4] != orders[4:]  # the Trainer tells the epoch
    for batch in module.training_batches:
        assert batch["image"].dtype == torch.float32 and batch["image"].amax() <= 1
        for vector in batch["targets"]["classification"]:
            assert vector.shape == (3,) and float(vector.sum()) == pytest.approx(1, abs=1e-5)
    assert all(isinstance(label, int) for b in module.validation_batches for label in b["targets"]["classification"])


def mixed(labels: list, epoch: int = 0, **alphas: float) -> dict:
    schema = {"kind": TaskInfo("classification", ["a", "b", "c", "d"])}
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8)  # image i is all i
    batch = {"image": images, "targets": {"kind": labels}, "index": torch.arange(4)}
    return BatchMixer(schema, **{"mixup": 0.0, "cutmix": 0.0} | alphas, seed=0)(batch, epoch)


@pytest.mark.parametrize("alphas", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_targets_are_mixed_as_the_pixels_are(alphas: dict[str, float]) -> None:
    shares = set()
    for number in range(10):
        batch = mixed([0, 1, 2, 3], number, **alphas)
        for image, vector in zip(batch["image"], batch["targets"]["kind"], strict=True):
            assert float(vector.sum()) == pytest.approx(1, abs=1e-5) and (vector >= 0).all()
            # Image i is all i, so its mean tells how much of which image is in it.
            assert float(image.mean()) == pytest.approx(float(vector @ torch.arange(4.0)), abs=1e-4)
            shares.add(round(float(vector.max()), 3))
        again = mixed([0, 1, 2, 3], number, **alphas)
        assert torch.equal(again["image"], batch["image"])
    assert len(shares) > 3


def test_a_picture_mixed_with_an_unlabelled_one_has_no_target() -> None:
    targets = mixed([0, None, 2, 3], mixup=1.0)["targets"]["kind"]
    assert targets[1] is None and sum(target is None for target in targets) == 2


@pytest.mark.parametrize("alphas", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_labelled_pictures_are_mixed_with_each_other(alphas: dict[str, float]) -> None:
    """In turn with unlabelled ones each would otherwise be mixed with one of these, and none have a target."""
    batch = mixed([None, 1, None, 3], **alphas)
    assert [target is None for target in batch["targets"]["kind"]] == [True, True, True, False]
    vector = batch["targets"]["kind"][3]
    assert float(vector[1] + vector[3]) == pytest.approx(1, abs=1e-5) and 0.01 < float(vector[1]) < 0.99
    assert float(batch["image"][3].mean()) == pytest.approx(float(vector @ torch.arange(4.0)), abs=1e-4)
    # The first labelled one has as much of the last unlabelled one in it.
    assert float(batch["image"][1].mean()) == pytest.approx(1 + float(vector[1]), abs=1e-4)


def test_label_vectors_are_mixed_and_what_is_unknown_stays_unknown() -> None:
    nan = float("nan")
    labels = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, nan], [1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    schema = {"labels": TaskInfo("multilabel", list("abcd")), "which": TaskInfo("classification", list("wxyz"))}
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8)
    batch = {"image": images, "targets": {"labels": list(labels), "which": [0, 1, 2, 3]}, "index": torch.arange(4)}
    for alphas in ({"mixup": 1.0, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}):
        targets = BatchMixer(schema, **alphas, seed=3)(batch, epoch=0)["targets"]
        shares = torch.stack(targets["which"])  # image i is the only one of class i
        assert 0.01 < float(shares.max(1).values.min()) < 0.99
        mixed = torch.stack(targets["labels"])
        assert torch.equal(mixed[:, 3].isnan(), shares[:, 1] > 0) and int(mixed.isnan().sum()) == 2
        torch.testing.assert_close(mixed[:, :3], shares @ labels[:, :3])
        assert torch.equal(mixed[:, 2], torch.ones(4))
    without = BatchMixer(schema, 1.0, 0.0, seed=3)(
        {**batch, "targets": {"labels": [labels[0], labels[1], None, labels[3]], "which": [0, 1, 2, 3]}}, epoch=0
    )
    lost = [target is None for target in without["targets"]["labels"]]
    assert lost == (torch.stack(without["targets"]["which"])[:, 2] > 0).tolist() and sum(lost) == 2


@pytest.mark.parametrize("kind", ["detection", "instances", "segmentation", "regression", "dense"])
def test_what_else_there_is_cannot_be_mixed(kind: str) -> None:
    with pytest.raises(UserError, match=rf"cannot mix the targets of cars \({kind}\); write e.g. augment=standard"):
        BatchMixer({"cars": TaskInfo(kind, ["car"])}, 0.2, 0.0, seed=0)


def test_a_plain_dict_builds_too() -> None:
    data = build_data({"reader": {"_target_": "visiontune.data.readers.digits.read"}, "image_size": 8}, seed=1)
    assert next(iter(data.train_dataloader()))["image"].shape == (32, 3, 8, 8)


def test_labels_are_kept_for_a_share_of_the_training_samples_also_when_it_goes_on(make: Make, tmp_path: Path) -> None:
    overrides = ("data=digit_scenes", "data.scenes=120")
    whole, part = make(*overrides), make(*overrides, "data.labelled=0.5")
    assert all(set(sample.targets) == set(whole.schema) for sample in part.samples("val"))
    assert len(part.samples("train")) == len(whole.samples("train"))
    kept = {sample.path: set(sample.targets) for sample in part.samples("train")}
    shares = [sum(task in tasks for tasks in kept.values()) / len(kept) for task in whole.schema]
    assert all(0.3 < share < 0.7 for share in shares) and len(set(shares)) > 1  # each task is drawn apart
    with (tmp_path / "splits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "split", "group", "content", "labels"])
        writer.writeheader()
        writer.writerows(part.splits_rows())
    part.assign_as(tmp_path / "splits.csv")
    assert {sample.path: set(sample.targets) for sample in part.samples("train")} == kept


def test_pictures_without_a_wanted_label_are_left_out_and_said() -> None:
    samples = [
        Sample(f"{i}", {"colour": i % 2 if i < 8 else None, "size": 0}, image=torch.full((3, 4, 4), i))
        for i in range(10)
    ]
    source = Source({"colour": TaskInfo("classification", ["a", "b"]), "size": TaskInfo("regression", ["v"])}, samples)
    only = _select_tasks(source, ["colour"])
    assert list(only.schema) == ["colour"] and [sample.path for sample in only.samples] == [f"{i}" for i in range(8)]
    assert all(set(sample.targets) == {"colour"} for sample in only.samples)
    assert only.notes == ["2 of 10 images have no label for colour and are left out"]
    with pytest.raises(
        UserError, match=r"^heads\.depth: .* it has colour, size; choose heads for these, or write ~heads\.depth$"
    ):
        _select_tasks(source, ["depth"])
