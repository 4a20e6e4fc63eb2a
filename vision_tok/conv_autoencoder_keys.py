"""Names of the five published layouts for the parts of the convolutional autoencoder.

    ours        encoder.levels.0.blocks.1.conv1.weight    encoder.middle.attention.qkv.weight
    llamagen    encoder.conv_blocks.0.res.1.conv1.weight  encoder.mid.1.{q,k,v}.weight
    taming      encoder.down.0.block.1.conv1.weight       encoder.mid.attn_1.{q,k,v}.weight
    var         as taming                                 encoder.mid.attn_1.qkv.weight
    diffusers   encoder.down_blocks.0.resnets.1.conv1...  encoder.mid_block.attentions.0.to_{q,k,v}

TokenFlow's pixel branch has LlamaGen's names.  One tensor of ours may be several of theirs, one
after the other along the first axis (q, k, v).  taming and VAR number decoder levels from fine to
coarse, everybody else in the order in which they run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from tok_core.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one project names the parts; ``{i}`` is a level, ``{j}`` a block."""

    encoder_level: str
    decoder_level: str
    block: str
    attention: str
    halve: str
    double: str
    middle: tuple[str, str, str]
    norm: str
    qkv: tuple[str, ...]
    out: str
    shortcut: str = "nin_shortcut"
    norm_out: str = "norm_out"
    fine_first: bool = False
    """Decoder levels are numbered from fine to coarse."""


_TAMING = Layout(
    encoder_level="down.{i}", decoder_level="up.{i}", block="block.{j}", attention="attn.{j}",
    halve="downsample.conv", double="upsample.conv",
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"), norm="norm", qkv=("q", "k", "v"),
    out="proj_out", fine_first=True,
)  # fmt: skip
LAYOUTS: Mapping[str, Layout] = {
    "llamagen": Layout(
        encoder_level="conv_blocks.{i}", decoder_level="conv_blocks.{i}", block="res.{j}",
        attention="attn.{j}", halve="downsample.conv", double="upsample.conv",
        middle=("mid.0", "mid.1", "mid.2"), norm="norm", qkv=("q", "k", "v"), out="proj_out",
    ),
    "taming": _TAMING,
    "var": Layout(**vars(_TAMING) | {"qkv": ("qkv",)}),
    "diffusers": Layout(
        encoder_level="down_blocks.{i}", decoder_level="up_blocks.{i}", block="resnets.{j}",
        attention="attentions.{j}", halve="downsamplers.0.conv", double="upsamplers.0.conv",
        middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
        norm="group_norm", qkv=("to_q", "to_k", "to_v"), out="to_out.0",
        shortcut="conv_shortcut", norm_out="conv_norm_out",
    ),
}  # fmt: skip
# MoVQ's norms, which only diffusers publishes.
_MODULATED = {"norm": "norm_layer", "scale": "conv_y", "shift": "conv_b"}
_PLACES = {"first": 0, "attention": 1, "last": 2}
_PATH = re.compile(
    r"(?:levels\.(?P<i>\d+)\.(?:(?P<kind>blocks|attentions)\.(?P<j>\d+)|(?P<resample>resample))"
    r"|middle\.(?P<place>first|attention|last)|(?P<single>conv_in|conv_out|norm_out))"
    r"\.(?P<rest>.+)"
)


def official_parts(ours: str, layout: str, levels: int) -> tuple[str, ...]:
    """Return the official names whose tensors, one after the other, are one of our tensors.

    Args:
        ours: name of a parameter of ours, beginning with ``encoder.`` or ``decoder.``.
        layout: a key of `LAYOUTS`.
        levels: of that side.

    Raises:
        ConfigError: an unknown layout, or a name that is none of the autoencoder's.

    Example:
        >>> official_parts("decoder.levels.0.blocks.1.conv1.bias", "taming", 5)
        ('decoder.up.4.block.1.conv1.bias',)
    """
    if layout not in LAYOUTS:
        legal = ", ".join(LAYOUTS) + nearest(layout, LAYOUTS)
        raise ConfigError(f"layout '{layout}' is unknown; legal are {legal}")
    words = LAYOUTS[layout]
    side, _, inner = ours.partition(".")
    match = _PATH.fullmatch(inner)
    if match is None or side not in ("encoder", "decoder"):
        raise ConfigError(f"'{ours}' is no parameter of a convolutional autoencoder")
    rest = match["rest"]
    if match["single"]:
        head = words.norm_out if match["single"] == "norm_out" else match["single"]
        return (f"{side}.{head}.{_norm_rest(rest)}",)
    if match["place"]:
        head = words.middle[_PLACES[match["place"]]]
        attention = match["place"] == "attention"
    else:
        head, attention = _level_head(match, side, words, levels), match["kind"] == "attentions"
    inside = _attention(rest, words) if attention else (_block(rest, words),)
    return tuple(f"{side}.{head}.{name}" for name in inside)


def _level_head(match: re.Match[str], side: str, words: Layout, levels: int) -> str:
    index = int(match["i"])
    if side == "decoder" and words.fine_first:
        index = levels - 1 - index
    level = (words.encoder_level if side == "encoder" else words.decoder_level).format(i=index)
    if match["resample"]:
        return f"{level}.{words.halve if side == 'encoder' else words.double}"
    inner = words.block if match["kind"] == "blocks" else words.attention
    return f"{level}.{inner.format(j=match['j'])}"


def _block(rest: str, words: Layout) -> str:
    part, _, tail = rest.partition(".")
    if part == "shortcut":
        return f"{words.shortcut}.{tail}"
    return f"{part}.{_norm_rest(tail)}" if part.startswith("norm") else rest


def _norm_rest(rest: str) -> str:
    part, dot, tail = rest.partition(".")
    return f"{_MODULATED[part]}.{tail}" if dot else rest


def _attention(rest: str, words: Layout) -> tuple[str, ...]:
    part, _, tail = rest.partition(".")
    if part == "qkv":
        return tuple(f"{name}.{tail}" for name in words.qkv)
    if part == "out":
        return (f"{words.out}.{tail}",)
    # A modulated norm of diffusers sits under a name of its own.
    return (f"spatial_norm.{_norm_rest(tail)}" if "." in tail else f"{words.norm}.{tail}",)


def conv_autoencoder_keys(
    names: Iterable[str], layout: str, levels: Mapping[str, int]
) -> dict[str, tuple[str, ...]]:
    """Return our name -> official names for the ``encoder.`` and ``decoder.`` names among ours.

    Args:
        names: of a model's state dict; others than the two sides' are left out.
        layout: a key of `LAYOUTS`.
        levels: number of levels by side, ``{"encoder": 5, "decoder": 5}``.

    Example:
        >>> conv_autoencoder_keys(model.state_dict(), "llamagen", {"encoder": 5, "decoder": 5})
    """
    return {
        name: official_parts(name, layout, levels[name.partition(".")[0]])
        for name in names
        if name.startswith(("encoder.", "decoder."))
    }


# Attention as diffusers named it until 0.17.
_OLD_ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))


def modern_attention_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with diffusers' old attention names replaced by today's."""
    found = {}
    for name, tensor in state.items():
        for old, new in _OLD_ATTENTION:
            name = re.sub(rf"(\.attentions\.\d+)\.{old}\.", rf"\1.{new}.", name)
        found[name] = tensor
    return found
