"""EoMT of Hugging Face transformers: the last blocks of a vision transformer also process queries, each with a mask."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visiontune.data.targets import IGNORE
from visiontune.errors import UserError, first_line
from visiontune.models.distributed import mean_over_ranks
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.base import Raw
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.transformers_library import check_arguments, import_transformers

KEY = "heads.segmentation"
FIXED = ("hidden_size", "image_size", "patch_size", "num_channels", "num_labels", "num_hidden_layers")
DIVIDED = ("loss_mask", "loss_dice")  # losses that are divided by the number of masks
HEAD_WIDTH = 64  # channels of an attention head of DINOv2


class EomtDecoder(nn.Module):
    """The blocks of an encoder-only mask transformer that see its queries (Kerssies et al. 2025,
    https://arxiv.org/abs/2503.19108), after the blocks of an `EomtBackbone`.

    A query is a token beside those of the image. It predicts one class or none, and a mask. The score of a class at a
    pixel is the sum over the queries of the probability of the class times that of the mask. Blocks, initialisation,
    matching and losses are the library's.

    In training, the predictions before each of these blocks count in the loss as much as the last ones. Where
    `attn_mask_probs` is 1, a query attends only to the part of the image that its mask before the block covers; in
    published weights it is 0.

    Raw tensors: `classes` ``(B, Q, C + 1)``, the last entry for no class, and `masks` ``(B, Q, h, w)``, both logits;
    `classes_0`, `masks_0`, ... before each block.

    Attributes:
        network: the library's model without the embeddings, with the last blocks only.
        training_only: the raw tensors that only the loss reads.
    """

    output_layers = ("network.class_predictor",)
    rows = ClassRows(after=1)
    is_scaled = True

    def __init__(self, features: FeatureShape, classes: int, options: Mapping[str, Any] | None) -> None:
        """
        Args:
            options: arguments of `EomtConfig` of transformers.

        Raises:
            UserError: transformers is missing, a wrong option, or another backbone.
        """
        super().__init__()
        library = import_transformers(f"{KEY}.decoder=eomt")
        values = dict(options or {})
        if not features.prefix_tokens:
            raise UserError(
                f"{KEY}.decoder=eomt continues the blocks of backbone.name=eomt, and needs that backbone; write "
                f"pretrained=eomt_small, or {KEY}.decoder=unet"
            )
        known = library.EomtConfig().to_dict().keys() - FIXED
        check_arguments(values, known, f"{KEY}.transformer", "decoder=eomt")
        (width,), (patch,) = features.channels, features.strides
        try:
            config = library.EomtConfig(
                **{"num_attention_heads": max(1, width // HEAD_WIDTH), **values},
                hidden_size=width,
                image_size=patch,
                patch_size=patch,
                num_labels=classes,
            )
            config.num_hidden_layers = config.num_blocks
            self.network = library.EomtForUniversalSegmentation(config)
        except Exception as error:  # the library's checks raise errors of many types
            raise UserError(
                f"{KEY}.transformer: transformers cannot build this decoder ({first_line(error)[:200]})"
            ) from error
        del self.network.embeddings
        criterion = self.network.criterion
        weight = criterion.empty_weight
        del criterion.empty_weight
        criterion.register_buffer("empty_weight", weight, persistent=False)  # it follows from the options
        self.prefix, self.queries = features.prefix_tokens, config.num_queries
        self.scale = patch // 2**config.num_upscale_blocks
        self.suffixes = [*(f"_{i}" for i in range(config.num_blocks)), ""]
        self.training_only = tuple(f"{name}{suffix}" for suffix in self.suffixes[:-1] for name in ("classes", "masks"))
        self.network.register_load_state_dict_post_hook(_read_masking)
        _read_masking(self.network)

    def forward(self, features: Features) -> Raw:
        network, grid, prefix = self.network, features.maps[-1], features.prefix
        assert prefix is not None
        queries = network.query.weight[None].expand(grid.shape[0], -1, -1)
        tokens = torch.cat([queries, prefix, grid.flatten(2).transpose(1, 2)], 1)
        raw: Raw = {}
        for suffix, layer, masked in zip(self.suffixes[:-1], network.layers, network.masked, strict=True):
            raw |= self._predict(tokens, grid.shape[-2:], suffix)
            visible = self._visible(raw[f"masks{suffix}"], grid.shape[-2:]) if masked else None
            tokens = layer(tokens, visible)
        return raw | self._predict(tokens, grid.shape[-2:], "")

    def _predict(self, tokens: Tensor, grid: torch.Size, suffix: str) -> Raw:
        tokens = self.network.layernorm(tokens)
        queries, patches = tokens[:, : self.queries], tokens[:, self.queries + self.prefix :]
        image = self.network.upscale_block(patches.transpose(1, 2).reshape(tokens.shape[0], -1, *grid))
        masks = torch.einsum("bqc,bchw->bqhw", self.network.mask_head(queries), image)
        return {f"classes{suffix}": self.network.class_predictor(queries), f"masks{suffix}": masks}

    def _visible(self, masks: Tensor, grid: torch.Size) -> Tensor:
        """``(B, 1, N, N)`` bool: which token (last dimension) a token attends to."""
        cells = F.interpolate(masks, size=grid, mode="bilinear").flatten(2) > 0
        others = self.queries + self.prefix
        visible = cells.new_ones(cells.shape[0], 1, others + cells.shape[2], others + cells.shape[2])
        visible[:, 0, : self.queries, others:] = cells
        return visible

    def loss(self, raw: Raw, targets: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """The library's losses by name, each summed over the predictions before and after the blocks.

        Args:
            targets: label maps ``(H, W)``; images without one are left out.
        """
        rows = [i for i, target in enumerate(targets) if target is not None]
        masks = [_split(target) for target in targets if target is not None]
        # The library divides by the number of masks of this rank. The divisor should be that of all ranks.
        count = sum(len(labels) for _, labels in masks)
        factor = max(1, count) / max(1.0, mean_over_ranks(count, raw["classes"].device))
        if not rows:
            return {"loss": 0 * torch.stack([value.float().sum() for value in raw.values()]).sum()}
        losses = self._losses(raw if len(rows) == len(targets) else _select(raw, rows), masks, self.suffixes)
        return {name: factor * value if name in DIVIDED else value for name, value in losses.items()}

    def sample_loss(self, raw: Raw, targets: Sequence[Tensor | None]) -> Tensor:
        """``(B,)``, the loss of the last predictions of each image by itself, with the same random points each time."""
        device = raw["classes"].device
        losses = torch.full((len(targets),), torch.nan, device=device)
        for i, target in enumerate(targets):
            if target is not None:
                with torch.random.fork_rng([device] if device.type == "cuda" else []):
                    torch.manual_seed(0)
                    parts = self._losses(_select(raw, [i]), [_split(target)], [""])
                    losses[i] = torch.stack([*parts.values()]).sum()
        return losses

    def _losses(self, raw: Raw, masks: Sequence[tuple[Tensor, Tensor]], suffixes: Sequence[str]) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        with torch.autocast(raw["classes"].device.type, enabled=False):
            for suffix in suffixes:
                losses = self.network.get_loss_dict(
                    masks_queries_logits=raw[f"masks{suffix}"].float(),
                    class_queries_logits=raw[f"classes{suffix}"].float(),
                    mask_labels=[mask for mask, _ in masks],
                    class_labels=[labels for _, labels in masks],
                    auxiliary_predictions=None,
                )
                sums = {name: sums[name] + value if name in sums else value for name, value in losses.items()}
        return sums

    def scores(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """The library's semantic segmentation: scores ``(B, C, H, W)``, 0 or more, as large as the network's input; and
        their logarithms, whose softmax are probabilities."""
        masks, classes = raw["masks"].float(), raw["classes"].float().softmax(2)[..., :-1]
        size = (masks.shape[2] * self.scale, masks.shape[3] * self.scale)
        scores = torch.einsum("bqc,bqhw->bchw", classes, F.interpolate(masks, size, mode="bilinear").sigmoid())
        return scores, scores.clamp_min(torch.finfo(scores.dtype).tiny).log()


def refuse_options(head: type, options: Mapping[str, Any]) -> None:
    """Refuse options of a head that are not the default.

    Raises:
        UserError: the message has the first of them.
    """
    for name, parameter in signature(head).parameters.items():
        default, value = parameter.default, options[name]
        if default is not parameter.empty and name not in ("decoder", "transformer") and value != default:
            text = "null" if default is None else default
            raise UserError(f"{KEY}.{name} has no effect on decoder=eomt: write {KEY}.{name}={text}")


def _read_masking(network: Any, *_: Any) -> None:
    """Set `network.masked`, whether a block masks the attention, from the buffer that weights and checkpoints fill.

    An exported graph cannot branch on a tensor.

    Raises:
        UserError: a probability between 0 and 1, with which every pass would have another result.
    """
    values = network.attn_mask_probs.tolist()
    if any(value not in (0, 1) for value in values):
        raise UserError(
            f"the weights of EoMT have attn_mask_probs={values}, from the middle of their training; expected 0 (as in "
            "published weights) or 1 for each block"
        )
    network.masked = [value == 1 for value in values]


def _split(target: Tensor) -> tuple[Tensor, Tensor]:
    """The classes of a label map as masks ``(K, H, W)`` float and labels ``(K,)``."""
    target = target.as_subclass(Tensor).long()
    labels = target.unique()
    labels = labels[labels != IGNORE]
    return (target == labels[:, None, None]).float(), labels


def _select(raw: Raw, rows: list[int]) -> Raw:
    return {name: value[rows] for name, value in raw.items()}
