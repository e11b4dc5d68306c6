"""Predict with model.onnx: python run_onnx.py IMAGE ...   (needs numpy, pillow and onnxruntime)"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
metadata = json.loads(session.get_modelmeta().custom_metadata_map["visiontune"])
names = [output.name for output in session.get_outputs() if not output.name.startswith("raw.")]


def predict(path: str) -> dict[str, np.ndarray]:
    """Outputs by name, in pixels of the image. All but boxes and their masks have a batch dimension first."""
    pixels = np.atleast_3d(read(path)).transpose(2, 0, 1)
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: pixels[None]}), strict=True))


def read(path: str) -> np.ndarray:
    """Read pixels as in training: 16 bits scaled to 8, transparency over white, four channels unchanged."""
    image = ImageOps.exif_transpose(Image.open(path))
    if metadata["channels"] == 4:
        return np.asarray(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))
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
    for path in sys.argv[1:] or sys.exit(__doc__):
        outputs = predict(path)
        for task in metadata["tasks"]:
            values = {name.split(".", 1)[1]: value for name, value in outputs.items() if name.startswith(f"{task}.")}
            print(f"{path}  {task}: {describe(task, values)}")
