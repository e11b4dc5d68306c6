"""torchvision's segmenters as options of the head and the backbone, through the commands."""

from collections.abc import Callable

from running import SCENES, Outcome


def test_batchnorm_of_a_pooled_map_needs_two_images(plan: Callable[..., Outcome]) -> None:
    options = [*SCENES, "heads=segmentation", "heads.segmentation.decoder=deeplabv3", "heads.segmentation.norm=batch"]
    outcome = plan(*options, "data.batch_size=1")
    assert outcome.code == 2
    assert outcome.err.strip() == (
        "error: data.batch_size=1: the BatchNorm of heads.segmentation needs 2 images to train; write "
        "data.batch_size=2, or heads.segmentation.norm=group"
    )
    assert plan(*options, "data.batch_size=2", "heads.segmentation.auxiliary=0.5").code == 0
