"""A head on the backbone's embedding."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from visiontune.data.frames import Frame
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.base import Head, Prediction, Raw
from visiontune.models.heads.exportable import Exportable


class EmbeddingHead(Head, Exportable):
    """A linear layer on the backbone's embedding, with optional dropout and one hidden GELU layer before it.

    The last layer starts at N(0, 0.01), since a network's own initialisation of its classifier can be too large for few
    classes.
    """

    def __init__(self, features: FeatureShape, width: int, dropout: float, hidden: int | None) -> None:
        """
        Args:
            width: of the output.
            dropout: 0..1, before the last layer.
            hidden: width of the hidden layer, or None.
        """
        super().__init__()
        self.hidden = nn.Linear(features.embedding_dim, hidden) if hidden else None
        self.linear = nn.Linear(hidden or features.embedding_dim, width)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.drop = nn.Dropout(dropout)

    def layers(self, features: Features) -> Tensor:
        """``(B, width)``."""
        x = features.embedding
        if self.hidden is not None:
            x = F.gelu(self.hidden(x))
        return self.linear(self.drop(x))

    def decode(self, raw: Raw, frames: Sequence[Frame]) -> list[Prediction]:
        batch = self.graph(raw, frames[0]) if frames else {}
        return [{name: values[i] for name, values in batch.items()} for i in range(len(frames))]
