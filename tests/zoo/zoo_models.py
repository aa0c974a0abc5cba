"""Networks of the transformers library, small and with random weights: what becomes of their batch norms.

Run as a script, this prints the table of ``docs/coverage.md`` as measured.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bnfold import fold
from bnfold.core.verdict import Plan

SEED = 1
BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Network:
    """A network by name, what builds it, and the shape of an example input."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """How many batch norms there are, how many fold, and how far the outputs move, relative to the largest.

    ``fused`` is what torch.fx's ``fuse`` takes out, or why it cannot.
    """

    found: int
    folded: int
    error: float
    fused: str


def library() -> Any:
    """transformers, which is large, and not there where only the tests' names are wanted."""
    import transformers

    return transformers


def detr() -> nn.Module:
    """DETR on a ResNet with frozen batch norms: buffers, and arithmetic."""
    backbone = library().ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    config = library().DetrConfig(
        backbone_config=backbone,
        encoder_layers=1,
        decoder_layers=1,
        d_model=16,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=5,
    )
    return library().DetrModel(config)  # type: ignore[no-any-return]


def rt_detr() -> nn.Module:
    """RT-DETR: frozen batch norms below, and others in the encoder above."""
    backbone = library().RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = library().RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 24, 32],
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=10,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        num_denoising=0,
    )
    return library().RTDetrModel(config)  # type: ignore[no-any-return]


NETWORKS = (
    Network(
        "ResNet",
        lambda: library().ResNetForImageClassification(
            library().ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=5)
        ),
        (2, 3, 32, 32),
    ),
    Network(
        "RegNet",
        lambda: library().RegNetForImageClassification(
            library().RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], groups_width=4, num_labels=5)
        ),
        (2, 3, 32, 32),
    ),
    Network(
        "MobileNetV1",
        lambda: library().MobileNetV1ForImageClassification(
            library().MobileNetV1Config(depth_multiplier=0.25, num_labels=5)
        ),
        (2, 3, 64, 64),
    ),
    Network(
        "MobileNetV2",
        lambda: library().MobileNetV2ForImageClassification(
            library().MobileNetV2Config(depth_multiplier=0.25, num_labels=5)
        ),
        (2, 3, 64, 64),
    ),
    Network(
        "LeViT",
        lambda: library().LevitForImageClassification(
            library().LevitConfig(
                image_size=64,
                hidden_sizes=[16, 24, 32],
                num_attention_heads=[1, 2, 2],
                depths=[1, 1, 1],
                key_dim=[8, 8, 8],
                num_labels=5,
            )
        ),
        (2, 3, 64, 64),
    ),
    Network(
        "SegFormer",
        lambda: library().SegformerForSemanticSegmentation(
            library().SegformerConfig(
                num_encoder_blocks=2,
                depths=[1, 1],
                sr_ratios=[2, 1],
                hidden_sizes=[8, 16],
                num_attention_heads=[1, 2],
                decoder_hidden_size=16,
                num_labels=5,
            )
        ),
        (2, 3, 64, 64),
    ),
    Network(
        "Wav2Vec2-Conformer",
        lambda: library().Wav2Vec2ConformerModel(
            library().Wav2Vec2ConformerConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                conv_dim=(8, 8),
                conv_stride=(5, 2),
                conv_kernel=(10, 3),
                num_conv_pos_embeddings=8,
                num_conv_pos_embedding_groups=2,
                position_embeddings_type="relative",
            )
        ),
        (2, 800),
    ),
    Network(
        "MobileViT",
        lambda: library().MobileViTForImageClassification(
            library().MobileViTConfig(
                image_size=64, hidden_sizes=[16, 20, 24], neck_hidden_sizes=[8, 8, 12, 16, 20, 24, 32], num_labels=5
            )
        ),
        (2, 3, 64, 64),
    ),
    Network(
        "SwiftFormer",
        lambda: library().SwiftFormerForImageClassification(
            library().SwiftFormerConfig(image_size=64, embed_dims=[8, 12, 16, 24], depths=[1, 1, 1, 1], num_labels=5)
        ),
        (2, 3, 64, 64),
    ),
    Network("DETR, frozen batch norms", detr, (2, 3, 64, 64)),
    Network("RT-DETR, frozen batch norms", rt_detr, (2, 3, 64, 64)),
    Network(
        "PatchTST",
        lambda: library().PatchTSTModel(
            library().PatchTSTConfig(
                num_input_channels=2,
                context_length=32,
                d_model=16,
                num_attention_heads=2,
                num_hidden_layers=2,
                ffn_dim=32,
            )
        ),
        (2, 32, 2),
    ),
)
"""In the order of the document's table."""


def made(network: Network) -> tuple[nn.Module, torch.Tensor]:
    """The network with batch norms far from identity, frozen ones too, and an input for it."""
    torch.manual_seed(SEED)
    module = network.build().eval()
    for part in module.modules():
        mean, variance = getattr(part, "running_mean", None), getattr(part, "running_var", None)
        if isinstance(mean, torch.Tensor) and isinstance(variance, torch.Tensor):
            mean.normal_()
            variance.uniform_(0.2, 3)
            with torch.no_grad():
                part.state_dict()["weight"].uniform_(0.5, 1.5)
                part.state_dict()["bias"].normal_()
    return module, torch.randn(network.shape)


def measured(network: Network) -> tuple[Row, Plan]:
    """Fold, and compare on another input; then let torch.fx try on the same network."""
    module, x = made(network)
    result = fold(module, x)
    fresh = torch.randn(network.shape, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        before, after = module(fresh)[0], result.model(fresh)[0]
    error = ((before - after).abs().max() / before.abs().max()).item()
    return Row(len(result.plan), len(result.plan.folds), error, fused(module)), result.plan


def fused(module: nn.Module) -> str:
    """How many batch norms torch.fx's ``fuse`` takes out; the error's name where it cannot trace the network."""
    from torch.fx.experimental.optimization import fuse  # importing it warns of what torch itself deprecates

    before = sum(isinstance(part, BatchNorm) for part in module.modules())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after = sum(isinstance(part, BatchNorm) for part in fuse(copy.deepcopy(module)).modules())
    except Exception as error:  # noqa: BLE001 - tracing runs the network's code on stand-ins, which may raise anything
        return f"cannot trace ({type(error).__name__})"
    return str(before - after)


def row(network: Network, found: Row) -> str:
    """A line of the document's table, without the error, which is another one on every machine."""
    return f"| {network.name} | {found.found} | {found.folded} | {found.fused} |"


def main() -> None:
    """Print the table."""
    for network in NETWORKS:
        found, _ = measured(network)
        print(row(network, found), f"{found.error:.1e}")  # noqa: T201 - a script


if __name__ == "__main__":
    main()
