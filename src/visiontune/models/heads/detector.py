"""Build a detector from its options."""

from collections.abc import Iterable
from dataclasses import fields

from visiontune.errors import UserError
from visiontune.models.features import FeatureShape
from visiontune.models.heads.detector_options import DetectorOptions
from visiontune.models.heads.norm_layers import norm_layer
from visiontune.models.heads.one_stage import BOX_LOSSES, OneStage
from visiontune.models.heads.pyramid import Pyramid
from visiontune.models.heads.rf_detr import RfDetr
from visiontune.models.heads.rt_detr import RtDetr
from visiontune.models.heads.set_detector import SetDetector
from visiontune.models.heads.two_stage import NORMS, TwoStage

# Options that not all detectors have.
ONE_STAGE = ("extra_levels",)
TWO_STAGE = ("proposals", "proposal_threshold", "samples", "box_convs", "hidden")
SET = ("key", "transformer", "score_threshold", "max_detections")  # the only options of transformers
SET_DETECTORS = ("rt_detr_v2", "d_fine", "rf_detr")
DETECTORS = ("fcos", "retinanet", "faster_rcnn", *SET_DETECTORS)


def build_detector(
    detector: str, features: FeatureShape, classes: int, options: DetectorOptions, masks: bool = False
) -> OneStage | TwoStage | SetDetector:
    """
    Args:
        detector: "fcos", "retinanet", "faster_rcnn", "rt_detr_v2", "d_fine" or "rf_detr".
        masks: whether objects have masks, as in a Mask R-CNN.

    Raises:
        UserError: an unknown detector, an option that the detector does not have, or a backbone without suitable maps.
    """
    if detector not in DETECTORS:
        raise UserError(f"{options.key}.detector={detector}: write {', '.join(DETECTORS[:-1])} or {DETECTORS[-1]}")
    # The names in the config of `InstancesHead`, for messages.
    two_stage_name, set_names = ("mask_rcnn", ["rf_detr"]) if masks else ("faster_rcnn", SET_DETECTORS)
    if detector in SET_DETECTORS:
        others = [two_stage_name] if masks else ["fcos", "retinanet", two_stage_name]
        _refuse(options, [field.name for field in fields(options) if field.name not in SET], detector, others)
        if detector == "rf_detr":
            return RfDetr(detector, features, classes, options, masks)
        return RtDetr(detector, features, classes, options)
    two_stage = detector == "faster_rcnn"
    name = two_stage_name if two_stage else detector
    _refuse(options, ["transformer"], name, set_names)
    others = ["fcos", "retinanet"] if two_stage else [two_stage_name]
    _refuse(options, ONE_STAGE if two_stage else TWO_STAGE, name, others)
    if isinstance(options.box_loss, str) and (detector != "retinanet" or options.box_loss not in BOX_LOSSES):
        names = f"one of {', '.join(BOX_LOSSES)}" if detector == "retinanet" else "null"
        raise UserError(
            f"{options.key}.box_loss={options.box_loss} with detector={name}: write {names}, or a module such as "
            "{_target_: torch.nn.L1Loss}"
        )
    channels = options.channels
    if not two_stage:
        pyramid = Pyramid(features, channels, options.min_stride or 8, extra=options.extra_levels or "pyramid")
        convs = 4 if options.convs is None else options.convs
        return OneStage(detector, pyramid, classes, options, convs)
    norm = norm_layer(options, name, NORMS)
    pyramid = Pyramid(features, channels, options.min_stride or 4, extra="pool", norm_layer=norm)
    values = {name: value for name in (*TWO_STAGE, "convs") if (value := getattr(options, name)) is not None}
    return TwoStage(pyramid, classes, options, masks, **values)


def _refuse(options: DetectorOptions, names: Iterable[str], detector: str, others: Iterable[str]) -> None:
    """Refuse options that a detector does not have, unless they are the default.

    Args:
        others: the detectors that have them.

    Raises:
        UserError: the message has the first of them, and the detectors that have it.
    """
    defaults = {field.name: field.default for field in fields(options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            default = "null" if defaults[name] is None else defaults[name]
            raise UserError(
                f"{options.key}.{name} is an option of {' and '.join(f'detector={other}' for other in others)}, not of "
                f"detector={detector}; write {options.key}.{name}={default}"
            )
