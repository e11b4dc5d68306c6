"""Predict with model.onnx: python run_onnx.py PICTURE ...   (needs numpy, pillow and onnxruntime)"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["visiontune"])
names = [output.name for output in session.get_outputs() if not output.name.startswith("raw.")]


def predict(path: str) -> dict[str, np.ndarray]:
    """Outputs by name, in pixels of the image; but for boxes and their masks the first dimension is the batch's."""
    pixels = np.atleast_3d(read(path)).transpose(2, 0, 1)
    return dict(zip(names, session.run(names, {"picture": pixels[None]}), strict=True))


def read(path: str) -> np.ndarray:
    """Pixels as in training: 16 bits scaled to 8, what is transparent over white, four channels as they are stored."""
    picture = ImageOps.exif_transpose(Image.open(path))
    if about["channels"] == 4:
        return np.asarray(picture)
    if picture.mode.startswith("I"):
        picture = Image.fromarray(((np.asarray(picture).astype(np.int64) + 128) // 257).astype(np.uint8))
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB" if about["channels"] == 3 else "L"))


def words(task: str, found: dict[str, np.ndarray]) -> str:
    """What was found, in a line."""
    classes, kind = about["tasks"][task]["classes"], about["tasks"][task]["kind"]
    if kind == "classification":
        best = int(found["scores"][0].argmax())
        return f"{classes[best]} {found['scores'][0][best]:.3f}"
    if kind == "multilabel":
        scored = zip(classes, found["scores"][0], strict=True)
        return ", ".join(f"{name} {score:.3f}" for name, score in scored if score > 0.5) or "none"
    if kind == "regression":
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(classes, found["values"][0], strict=True))
    if kind == "segmentation":
        shares = np.bincount(found["map"].ravel(), minlength=len(classes)) / found["map"].size
        return ", ".join(f"{name} {share:.1%}" for name, share in zip(classes, shares, strict=True) if share)
    if "boxes" in found:
        each = zip(found["labels"], found["scores"], found["boxes"].round(1).tolist(), strict=True)
        return "; ".join(f"{classes[i]} {score:.3f} {box}" for i, score, box in each if score > 0.3) or "nothing"
    return ", ".join(f"{name} {value.shape} mean {value.mean():.4g}" for name, value in found.items())


if __name__ == "__main__":
    for path in sys.argv[1:] or sys.exit(__doc__):
        outputs = predict(path)
        for task in about["tasks"]:
            mine = {name.split(".", 1)[1]: value for name, value in outputs.items() if name.startswith(f"{task}.")}
            print(f"{path}  {task}: {words(task, mine)}")
