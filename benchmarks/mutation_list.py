"""Mutations of the code that keeps the laws: each is a bug that its tests must find.

A change is (text, replacement). A second change is for an older version with other words: the first one whose text
occurs exactly once is used.
"""

from dataclasses import dataclass

Change = tuple[str, str]


@dataclass(frozen=True)
class Mutation:
    """
    Attributes:
        law: number of the law in docs/testing.md that the mutation breaks.
        tests: the cheapest test files that must fail.
    """

    name: str
    law: int
    file: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]


def mutation(name: str, law: int, file: str, tests: str, *changes: Change) -> Mutation:
    return Mutation(name, law, f"src/visiontune/{file}", changes, tuple(f"tests/{test}.py" for test in tests.split()))


SAMPLING, SPLITS = "data/sampling.py", "data/splits.py"
FREEZING, CHECKPOINTS = "strategies/freezing.py", "callbacks/checkpoints.py"
SCHEDULERS, AVERAGING = "optim/schedulers.py", "callbacks/averaging.py"

MUTATIONS = [
    # 1. Resumed equals uninterrupted.
    mutation("resume_repeats_batches", 1, SAMPLING, "data/test_sampling", ("if number >= skip:", "if number >= 0:")),
    mutation(
        "skip_is_kept",
        1,
        SAMPLING,
        "data/test_sampling",
        ("epoch, skip, self._skip = self.epoch, self._skip, 0", "epoch, skip = self.epoch, self._skip"),
    ),
    mutation("best_score_forgotten", 1, CHECKPOINTS, "callbacks/test_checkpoints",
            ('self.best_score, self.best_epoch = state_dict["best_score"]', 'self.best_score, self.best_epoch = None')),
    mutation("early_stop_forgotten", 1, CHECKPOINTS, "callbacks/test_checkpoints",
            ('self.stopped_before = state_dict.get("stopped_before")', "self.stopped_before = None")),
    mutation("one_cycle_keeps_its_length", 1, SCHEDULERS, "optim/test_schedulers",
            ('length = {"total_steps", "_schedule_phases"}', "length = set[str]()")),
    mutation("previous_checkpoint_lost", 1, CHECKPOINTS, "callbacks/test_checkpoints",
            ('(folder / "last.ckpt").replace(folder / "previous.ckpt")', '(folder / "last.ckpt").unlink()')),
    mutation("dropout_not_repeated", 1, "models/step_seed.py", "models/test_finetuner",
            ("torch.manual_seed(hash((seed, epoch, step, rank)) % 2**63)", "torch.manual_seed(seed)"),
            ("torch.manual_seed(hash((self.seed, self.current_epoch, batch_idx, self.global_rank)) % 2**63)",
             "torch.manual_seed(self.seed)")),
    # 2. All parameter groups from step 0.
    mutation("biases_left_out", 2, "strategies/base.py", "strategies/test_strategies",
            ("vectors = [p for p in parameters if p.ndim <= 1]", "vectors = [p for p in parameters if p.ndim < 1]"),
            ("rest = [p for p in parameters if p.ndim <= 1]", "rest = [p for p in parameters if p.ndim < 1]")),
    mutation("norms_decay", 2, "strategies/base.py", "strategies/test_strategies",
            ("(name + NO_DECAY, vectors, 0.0)]", "(name + NO_DECAY, vectors, weight_decay)]"),
            ("(name + NO_DECAY, rest, 0.0)]", "(name + NO_DECAY, rest, weight_decay)]")),
    mutation("lr_decay_upside_down", 2, "strategies/base.py", "strategies/test_strategies",
            ("return self.lr_decay**distance", "return self.lr_decay ** -distance")),
    # 3. Ranks stay identical.
    mutation("rank_lost", 3, SAMPLING, "data/test_sampling",
            ("order[self.rank :: self.world]", "order[0 :: self.world]")),
    mutation("ranks_of_other_lengths", 3, SAMPLING, "data/test_sampling",
            ("order += order[: -len(order) % self.world]", "order += []")),
    mutation("ranks_judge_for_themselves", 3, CHECKPOINTS, "callbacks/test_checkpoints",
            ("score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]), src=0)",
              "score = float(trainer.callback_metrics[self.monitor])")),
    mutation("variances_not_averaged", 3, FREEZING, "strategies/test_freezing",
            ("for buffer in (norm.running_mean, norm.running_var)]", "for buffer in (norm.running_mean,)]")),
    # 4. A frozen stage is frozen.
    mutation("mode_not_frozen", 4, FREEZING, "strategies/test_freezing", ("module.train(trains)", "module.train()")),
    mutation("gradients_not_frozen", 4, FREEZING, "strategies/test_freezing",
            ("parameter.requires_grad_(trains and ", "parameter.requires_grad_(True or ")),
    mutation("batchnorm_learns", 4, FREEZING, "strategies/test_freezing",
            ("               part.eval()", "               part.train()")),
    mutation("never_frozen_again", 4, "models/finetuner.py", "strategies/test_freezing",
            ("        freeze(self.stages(), self.strategy, self.current_epoch)", "        pass"),
            ("on_train_epoch_start(self) -> None:\n        freeze(self.stages(), self.strategy, self.current_epoch)",
             "on_train_epoch_start(self) -> None:\n        pass")),
    # 5. A metric is that of the whole split.
    mutation("evaluation_drops_the_rest", 5, SAMPLING, "data/test_sampling",
            ("return [self.batch_size] * whole + ([rest] if rest else [])", "return [self.batch_size] * whole")),
    mutation("accuracy_by_class", 5, "models/heads/classification.py", "models/heads/test_classification",
            ('MulticlassAccuracy(classes, average="micro")', 'MulticlassAccuracy(classes, average="macro")')),
    mutation("ignored_pixels_count", 5, "models/heads/segmentation_metrics.py", "models/heads/test_segmentation",
            ("ignore_index=IGNORE, validate_args=False", "ignore_index=None, validate_args=False")),
    mutation("ignored_pixels_in_the_dice_loss", 5, "models/heads/segmentation_losses.py",
            "models/heads/test_segmentation",
            ("logits.softmax(1) * (target != IGNORE)[:, None]", "logits.softmax(1)")),
    mutation("metrics_not_reset", 5, "models/split_metrics.py", "models/test_finetuner",
            ("            metrics.reset()\n", "")),
    # 6. `max` is `max` everywhere.
    mutation("max_taken_for_min", 6, CHECKPOINTS, "callbacks/test_checkpoints",
            ('if self.mode == "max" else', 'if self.mode == "min" else')),
    mutation("nan_is_best", 6, CHECKPOINTS, "callbacks/test_checkpoints",
            ("if math.isnan(score):\n            return False", "if math.isnan(score):\n            return True")),
    mutation("first_of_equals", 6, CHECKPOINTS, "callbacks/test_checkpoints",
            ("return score >= self.best_score if", "return score > self.best_score if")),
    mutation("plateau_of_a_minimum", 6, SCHEDULERS, "optim/test_schedulers",
            ("ReduceLROnPlateau(optimizer, mode=mode,", 'ReduceLROnPlateau(optimizer, mode="min",')),
    # 7. Checkpoints are plain data.
    mutation("code_in_checkpoints", 7, "runs/torch_file.py", "training/test_load",
            ("weights_only=True, mmap=mmap", "weights_only=False, mmap=mmap")),
    mutation("unreadable_checkpoint_unnoticed", 7, CHECKPOINTS, "callbacks/test_checkpoints",
            ("        if not self.checked:", "        if False:")),
    mutation("counters_averaged", 7, AVERAGING, "callbacks/test_averaging",
            ("average.copy_(value)", "average.add_(value)")),
    # 8. A sweep never evaluates the test split.
    mutation("sweep_evaluates_the_test_split", 8, "training/resolve.py", "training/test_resolve",
            ("new.test = launch.job is None or", "new.test = True or"),
            ("cfg.test = not sweeping or", "cfg.test = True or")),
    # 9. Splits depend on content and seed.
    mutation("units_by_file_order", 9, SPLITS, "data/test_splits",
            ("sorted(units, key=lambda unit: unit.key) for stratum", "list(units) for stratum")),
    mutation("groups_straddle", 9, SPLITS, "data/test_splits",
            ("        if sample.group is not None:", "        if False:")),
    mutation("train_gets_the_test_share", 9, SPLITS, "data/test_splits",
            ('split = "test" if middle <= test_until', 'split = "test" if middle > test_until')),
    mutation("val_of_all_folds_alike", 9, SPLITS, "data/test_splits",
            ('derive(seed, "val of fold", fold)', "seed"),
            ("if place == fold:", "if place >= fold:")),
    mutation("shots_by_file_order", 9, SPLITS, "data/test_splits",
            ('(derive(seed, "shot", sample.content), sample.path)', "sample.path")),
    # 10 to 12.
    mutation("directories_shared", 10, "runs/directory.py", "runs/test_directory",
            (".touch(exist_ok=False)", ".touch(exist_ok=True)")),
    mutation("loss_without_a_graph", 11, "models/heads/segmentation.py", "models/heads/test_segmentation",
            ("{part: values.sum() / max(1, count) for part", "{part: values.detach().sum() / max(1, count) for part")),
    mutation("every_epoch_alike", 12, SAMPLING, "data/test_sampling",
            ('derive(self.seed, "order", epoch)', 'derive(self.seed, "order")')),
    mutation("seed_ignored", 12, "data/seeding.py", "data/test_sampling data/test_splits",
            ('"/".join(map(str, parts))', '"/".join(map(str, parts[1:]))')),
    mutation("warmup_from_the_peak", 12, SCHEDULERS, "optim/test_schedulers",
            ("return (step + 1) / (warmup_steps + 1)", "return 1.0"),
            ("return (step + 1) / (rising + 1)", "return 1.0")),
    mutation("last_window_too_small", 12, "callbacks/accumulation.py", "models/test_finetuner",
            ("loss.mul_(window / length)", "loss.mul_(1.0)"),
            ("return window / short if short and batch_idx >= batches - short else 1.0", "return 1.0")),
    mutation("average_never_forgets", 12, AVERAGING, "callbacks/test_averaging",
            ("return 1 - min(1 - 1 / max(", "return 1 - max(1 - 1 / max(")),
]  # fmt: skip
