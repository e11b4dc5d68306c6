"""Build a detector from its options."""

from visiontune.errors import UserError
from visiontune.models.features import FeatureShape
from visiontune.models.heads.detector_options import DetectorOptions
from visiontune.models.heads.norm_layers import norm_layer
from visiontune.models.heads.one_stage import BOX_LOSSES, OneStage
from visiontune.models.heads.pyramid import Pyramid
from visiontune.models.heads.two_stage import NORMS, TwoStage

# Options that not all detectors have.
ONE_STAGE = ("extra_levels",)
TWO_STAGE = ("proposals", "proposal_threshold", "samples", "box_convs", "hidden")


def build_detector(
    detector: str, features: FeatureShape, classes: int, options: DetectorOptions, masks: bool = False
) -> OneStage | TwoStage:
    """
    Args:
        detector: "fcos", "retinanet" or "faster_rcnn".
        masks: whether a faster_rcnn is a Mask R-CNN.

    Raises:
        UserError: an unknown detector, an option that the detector does not have, or a backbone without suitable maps.
    """
    if detector not in ("fcos", "retinanet", "faster_rcnn"):
        raise UserError(f"{options.key}.detector={detector}: write fcos, retinanet or faster_rcnn")
    two_stage = detector == "faster_rcnn"
    others = "detector=fcos and detector=retinanet" if two_stage else "detector=faster_rcnn"
    for name in ONE_STAGE if two_stage else TWO_STAGE:
        if getattr(options, name) is not None:
            raise UserError(
                f"{options.key}.{name} is an option of {others}, not of detector={detector}; write "
                f"{options.key}.{name}=null"
            )
    if isinstance(options.box_loss, str) and (detector != "retinanet" or options.box_loss not in BOX_LOSSES):
        names = f"one of {', '.join(BOX_LOSSES)}" if detector == "retinanet" else "null"
        raise UserError(
            f"{options.key}.box_loss={options.box_loss} with detector={detector}: write {names}, or a module such as "
            "{_target_: torch.nn.L1Loss}"
        )
    channels = options.channels
    if not two_stage:
        pyramid = Pyramid(features, channels, options.min_stride or 8, extra=options.extra_levels or "pyramid")
        convs = 4 if options.convs is None else options.convs
        return OneStage(detector, pyramid, classes, options, convs)
    norm = norm_layer(options, detector, NORMS)
    pyramid = Pyramid(features, channels, options.min_stride or 4, extra="pool", norm_layer=norm)
    values = {name: value for name in (*TWO_STAGE, "convs") if (value := getattr(options, name)) is not None}
    return TwoStage(pyramid, classes, options, masks, **values)
