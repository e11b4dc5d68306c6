"""Begin a new run from the weights of another run (`weights_from=`)."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from visiontune.models.backbones import WeightReport, load_state
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.class_rows import ClassRows, describe_rows, match_classes, object_entries
from visiontune.models.heads.query_rows import resize_queries
from visiontune.runs.directory import RunDirectory
from visiontune.strategies.lora import plain_state, rename_for_adapters
from visiontune.training.load import read_checkpoint, read_schema


def load_weights(model: FineTuner, run: RunDirectory, min_matched: float) -> WeightReport:
    """Load the weights of another run's best checkpoint into `model`.

    If a head has other classes, the rows of the classes that both runs know by name are loaded into the layers that
    depend on classes (see `Head.class_rows`), and so are all other layers. Other classes begin with the mean of the
    rows (see `ClassRows.copy`). A head without such a list, such as that of classification, keeps its initial weights,
    even if the shapes are equal, since its rows would mean other classes.

    Raises:
        UserError: less than `min_matched` (0..1) of the parameters match.
    """
    path = run.checkpoint("best")
    checkpoint = read_checkpoint(path)
    state = plain_state(checkpoint)
    old, new = read_schema(checkpoint, path), model.description["tasks"]
    initial = model.state_dict()
    changed: dict[str, str] = {}
    remarks = []
    for task, head in model.heads.items():
        changed |= resize_queries(state, initial, {f"heads.{task}.{key}": n for key, n in head.query_groups.items()})
    for task in [task for task in new if task in old]:
        names, known = new[task]["classes"], old[task].classes
        if names == known:
            continue
        if layouts := model.heads[task].class_rows():
            prefix = f"heads.{task}."
            changed |= _copy_rows(state, initial, {prefix + name: rows for name, rows in layouts.items()}, names, known)
            remarks.append(describe_rows(names, match_classes(names, known)))
        else:
            words = f"{len(known)} classes -> {len(names)} others, initialised"
            removed = [key for key in state if key.startswith(f"heads.{task}.")]
            changed |= {key: f"{tuple(state.pop(key).shape)}: {words}" for key in removed}
    mean_std = {key: state.pop(key) for key in ("backbone.mean", "backbone.std")}
    state |= {key: value for key, value in mean_std.items() if initial[key].shape == value.shape}
    state |= {key: initial[key] for key in mean_std if key not in state}
    report = load_state(model, rename_for_adapters(state, initial), f"run {run.path.name}", min_matched)
    report.reshaped += [f"{key} {words}" for key, words in changed.items()]
    report.matched = [key for key in report.matched if key not in changed]
    report.missing = [key for key in report.missing if key not in changed]
    report.remarks += remarks
    loaded, missing = (
        {key.split(".")[1] for key in keys if key.startswith("heads.")} for keys in (report.matched, report.missing)
    )
    report.heads = sorted(loaded - missing)
    return report


def _copy_rows(
    state: dict[str, Tensor],
    initial: Mapping[str, Tensor],
    layouts: Mapping[str, ClassRows],
    names: Sequence[str],
    known: Sequence[str],
) -> dict[str, str]:
    """Replace the tensors with rows per class in `state` by the model's with the rows of known classes.

    A tensor with another layout, such as that of another number of anchors, is removed, since an equal shape would be a
    coincidence.

    Returns:
        The shapes of these tensors and what happened to them, in words.
    """
    matches = match_classes(names, known)
    changed = {}
    for key in [key for key in layouts if key in state]:
        rows, value, target = layouts[key], state.pop(key), initial[key]
        entries = {index: rows.offset + entry for index, entry in matches.items()}
        mean = [rows.offset + entry for entry in object_entries(known)]
        merged = rows.copy(value, target, rows.offset + len(known), entries, mean)
        if merged is not None:
            state[key] = merged
        outcome = "initialised" if merged is None else "rows of known classes kept"
        changed[key] = f"{tuple(value.shape)} -> {tuple(target.shape)}, {outcome}"
    return changed
