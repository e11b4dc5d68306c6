"""The embedded set: 1,797 real handwritten digits of 8x8 pixels that scikit-learn carries (UCI ML, test part)."""

import torch
from sklearn.datasets import load_digits

from visiontune.data.schema import Sample, Source, TaskInfo


def read(task: str = "classification") -> Source:
    """All digits as `(1, 8, 8)` uint8; the file's 0..16 becomes 0..255."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    samples = [
        Sample(path=f"digits/{i:04d}", targets={task: int(label)}, image=image)
        for i, (image, label) in enumerate(zip(images, bunch.target, strict=True))
    ]
    return Source(schema={task: TaskInfo("classification", [str(digit) for digit in range(10)])}, samples=samples)
