"""The images that `predict` reads: a file, a folder or a video."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from visiontune.data.image_files import check_extras, reason
from visiontune.data.images import ImageDecoder, load_images
from visiontune.data.video import SUFFIXES as VIDEO_SUFFIXES
from visiontune.data.video import frame_rate, frames, is_video
from visiontune.data.walk import walk
from visiontune.errors import UserError, printable


@dataclass
class Input:
    """Images to predict.

    Attributes:
        files: name -> file; a single one for a video.
        decoder: reads the files.
        frame_rate: frames per second; None unless the input is a video.
        notes: what is left out.
        problems: a line for each file that could not be read, complete after `images`.
    """

    files: dict[str, Path]
    decoder: ImageDecoder
    frame_rate: Fraction | None = None
    notes: Sequence[str] = ()
    problems: list[str] = field(default_factory=list)

    def images(self) -> Iterator[tuple[str, Tensor]]:
        """Names and images `(C, H, W)`; the frames of a video are named `NAME/000000`, ...

        Files that cannot be read are left out and recorded in `problems`, and of a video all after a damaged frame.
        """
        self.problems.clear()
        if self.frame_rate is not None:
            yield from self._frames(*next(iter(self.files.items())))
            return
        for name, image in zip(self.files, load_images([*self.files.values()], self.decoder), strict=True):
            if isinstance(image, Tensor):
                yield name, image
            else:
                self.problems.append(f"{name}: {reason(image.__cause__ or image)}")

    def _frames(self, name: str, path: Path) -> Iterator[tuple[str, Tensor]]:
        try:
            for number, frame in enumerate(frames(path, self.decoder.channels, self.decoder.max_pixels)):
                yield f"{name}/{number:06d}", frame
        except UserError as error:
            self.problems.append(str(error))


def open_input(path: Path, decoder: ImageDecoder, output: Path) -> Input:
    """Read one image, a video, or all images under a folder.

    Args:
        output: the folder that the predictions are written to.

    Raises:
        UserError: there are no images at `path`, or `output` is in it.
    """
    text = printable(path)
    if path.is_file():
        files = {printable(path.name): path}
        check_extras(files)
        return Input(files, decoder, frame_rate(path) if is_video(path) else None)
    if not path.is_dir():
        if path.exists():
            raise UserError(f"input={text} is neither a file nor a folder: write the path of an image or a folder")
        raise UserError(f"input={text} does not exist: write the path of an image, a video or a folder")
    for folder, real in ((output.absolute(), path.absolute()), (output.resolve(), path.resolve())):
        if folder.is_relative_to(real):
            raise UserError(
                f"output={printable(output)} is in input={text}, so the drawings would be inputs next time: write "
                "output=DIR with a folder outside of it"
            )
    content = walk(path)
    if not content.images:
        videos = [file.name for file in content.files if file.suffix.lower() in VIDEO_SUFFIXES]
        more = f". A video is read alone: input={text}/{videos[0]}" if videos else ""
        more += "".join(f". {note}" for note in content.notes)
        raise UserError(f"input={text} has no images: write a folder with files such as bird.jpg{more}")
    files = {printable(file.relative_to(path).as_posix()): file for file in content.images}
    check_extras(files)
    return Input(files, decoder, notes=content.notes)
