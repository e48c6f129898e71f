"""A Swin Transformer's arrays under the names of torchvision, timm and its authors."""

from collections.abc import Iterator
from typing import NamedTuple

from resnet_jax.models.swin import Swin
from resnet_jax.models.torch_arrays import Target, convolution, layer_norm, linear, vector


class Naming(NamedTuple):
    """What the parts are called; `s` is a stage's number, from 0, and `b` a block's in it."""

    embedding: str
    embedding_norm: str
    block: str
    hidden: str
    output: str
    merging: str
    head: str


TIMM = Naming(
    embedding="patch_embed.proj",
    embedding_norm="patch_embed.norm",
    block="layers.{s}.blocks.{b}",
    hidden="fc1",
    output="fc2",
    merging="layers.{s}.downsample",
    head="head.fc",
)
NAMINGS = {
    "torchvision": Naming(
        embedding="features.0.0",
        embedding_norm="features.0.2",
        block="features.{odd}.{b}",
        hidden="0",
        output="3",
        merging="features.{even}",
        head="head",
    ),
    "timm": TIMM,
    # The published code and older versions of timm: merging ends the stage before.
    "microsoft": TIMM._replace(merging="layers.{before}.downsample", head="head"),
}


def targets(model: Swin, naming: str) -> Iterator[Target]:
    """All arrays; the layers' order of queries, keys and values is the same."""
    names = NAMINGS[naming]
    assert model.stem_conv.bias is not None
    yield convolution(names.embedding, model.stem_conv)
    yield vector(f"{names.embedding}.bias", model.stem_conv.bias)
    yield from layer_norm(names.embedding_norm, model.stem_norm)
    for s, stage in enumerate(model.stages):
        place = {"s": s, "before": s - 1, "even": 2 * s, "odd": 2 * s + 1}
        for b, block in enumerate(stage):
            if block.merging is not None:
                prefix = names.merging.format(**place)
                yield from layer_norm(f"{prefix}.norm", block.merging.norm)
                yield from linear(f"{prefix}.reduction", block.merging.reduction)
            prefix = names.block.format(b=b, **place)
            yield from layer_norm(f"{prefix}.norm1", block.attention_norm)
            table = block.attention.position_bias
            size = table.shape
            name = f"{prefix}.attn.relative_position_bias_table"
            yield Target(name, table, size, (0, 1), size)
            yield from linear(f"{prefix}.attn.qkv", block.attention.qkv)
            yield from linear(f"{prefix}.attn.proj", block.attention.output)
            yield from layer_norm(f"{prefix}.norm2", block.mlp_norm)
            yield from linear(f"{prefix}.mlp.{names.hidden}", block.mlp_hidden)
            yield from linear(f"{prefix}.mlp.{names.output}", block.mlp_output)
    yield from layer_norm("norm", model.final_norm)
    yield from linear(names.head, model.head)
