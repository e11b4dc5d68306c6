"""Predict with model.onnx: python run_onnx.py IMAGE ...   (needs numpy, pillow and onnxruntime)"""

import json
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, PngImagePlugin

session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
metadata = json.loads(session.get_modelmeta().custom_metadata_map["visiontune"])
names = [output.name for output in session.get_outputs() if not output.name.startswith("raw.")]
Image.MAX_IMAGE_PIXELS = None  # `read` has the limit of the run
with suppress(ImportError):  # reads HEIC
    import pi_heif

    pi_heif.register_heif_opener()
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 28  # large metadata is no reason to refuse


def predict(path: str) -> dict[str, np.ndarray]:
    """Outputs by name, in pixels of the image. All but boxes and their masks have a batch dimension first."""
    pixels = np.ascontiguousarray(np.atleast_3d(read(path)).transpose(2, 0, 1))
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: pixels[None]}), strict=True))


def read(path: str) -> np.ndarray:
    """Read pixels as in training: EXIF orientation, grey range, transparency over white, four channels unchanged."""
    with Image.open(path) as image:
        if metadata["max_pixels"] and image.width * image.height > metadata["max_pixels"]:
            raise ValueError(f"it has {image.width} x {image.height} pixels, more than {metadata['max_pixels']}")
        turn = orientation(image)
        image.load()
        pixels = to_uint8(image)
        if image.format == "TIFF":  # Pillow turns these files when it decodes them
            pixels = upright(pixels, {6: 8, 8: 6}.get(turn, turn))
        return upright(pixels, turn) if metadata["orientation"] == "apply" else pixels


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 without one, or if EXIF is damaged."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises errors of any type for damaged EXIF
        value = 1
    return value if value in range(1, 9) else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels as their EXIF orientation says."""
    pixels = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    pixels = pixels[::-1] if orientation in (3, 4, 7, 8) else pixels
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def to_uint8(image: Image.Image) -> np.ndarray:
    """The pixels with the channels of the run, as stored."""
    if metadata["channels"] == 4:
        if len(image.getbands()) != 4:
            raise ValueError(f"expected four bands, got {image.mode}")
        return np.asarray(image)
    if image.mode == "F" or image.mode.startswith("I"):
        low, high = metadata["grey_range"] or (0, 65535)
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=low)
        if metadata["grey_range"] is None and (image.mode == "F" or values.min() < low or values.max() > high):
            raise ValueError(f"values from {values.min():g} to {values.max():g}, and the run has no data.grey_range")
        image = Image.fromarray(np.rint((values.clip(low, high) - low) / (high - low) * 255).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB" if metadata["channels"] == 3 else "L"))


def describe(task: str, outputs: dict[str, np.ndarray]) -> str:
    """Describe a prediction in one line."""
    classes, kind = metadata["tasks"][task]["classes"], metadata["tasks"][task]["kind"]
    if kind == "classification":
        best = int(outputs["scores"][0].argmax())
        return f"{classes[best]} {outputs['scores'][0][best]:.3f}"
    if kind == "multilabel":
        scored = zip(classes, outputs["scores"][0], strict=True)
        return ", ".join(f"{name} {score:.3f}" for name, score in scored if score > 0.5) or "none"
    if kind == "regression":
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(classes, outputs["values"][0], strict=True))
    if kind == "segmentation":
        shares = np.bincount(outputs["map"].ravel(), minlength=len(classes)) / outputs["map"].size
        return ", ".join(f"{name} {share:.1%}" for name, share in zip(classes, shares, strict=True) if share)
    if "boxes" in outputs:
        objects = zip(outputs["labels"], outputs["scores"], outputs["boxes"].round(1).tolist(), strict=True)
        return "; ".join(f"{classes[i]} {score:.3f} {box}" for i, score, box in objects if score > 0.3) or "nothing"
    return ", ".join(f"{name} {value.shape} mean {value.mean():.4g}" for name, value in outputs.items())


if __name__ == "__main__":
    failed = False
    for path in sys.argv[1:] or sys.exit(__doc__):
        try:
            outputs = predict(path)
        except Exception as error:  # Pillow raises errors of any type for a damaged file
            print(f"{path}: {error}", file=sys.stderr)
            failed = True
            continue
        for task in metadata["tasks"]:
            values = {name.split(".", 1)[1]: value for name, value in outputs.items() if name.startswith(f"{task}.")}
            print(f"{path}  {task}: {describe(task, values)}")
    sys.exit(int(failed))
