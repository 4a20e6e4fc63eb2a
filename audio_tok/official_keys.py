"""Our parameter names and those of the published checkpoints, one table for both directions."""

from __future__ import annotations

from audio_tok.infer_wav_tokenizer import ENCODER, QUANTIZER
from audio_tok.wav_tokenizer import WavTokenizer

# Inside a ConvNeXt block, ours -> official.
_BLOCK = {
    "depthwise.weight": "dwconv.weight", "depthwise.bias": "dwconv.bias",
    "norm.scale": "norm.scale.weight", "norm.shift": "norm.shift.weight",
    "widen.weight": "pwconv1.weight", "widen.bias": "pwconv1.bias",
    "narrow.weight": "pwconv2.weight", "narrow.bias": "pwconv2.bias", "gamma": "gamma",
}  # fmt: skip
_RESIDUAL = {"narrow": "block.1", "widen": "block.3", "shortcut": "shortcut"}
_BUFFERS = {
    "codebook": "embed", "usage_ema": "cluster_size", "sum_ema": "embed_avg",
    "initialised": "inited",
}  # fmt: skip


def official_names(model: WavTokenizer) -> dict[str, str]:
    """Return our name -> official name for every tensor of the state.

    A weight-normed convolution appears under ``...weight``; its file holds ``...weight_g`` and
    ``...weight_v`` instead, see `weight_norm_parts`.

    Raises:
        KeyError: the state holds what no published model has (dead-code counters, say).

    Example:
        >>> official_names(model)["head.out.bias"]
        'head.out.bias'
    """
    stages = len(model.settings.strides)
    recurrent = 3 * stages + 1
    last = recurrent + (2 if model.settings.lstm_layers else 1)
    return {name: _official(name, recurrent, last) for name in model.state_dict()}


def weight_norm_parts(official: str) -> tuple[str, str] | None:
    """Return the names of length and direction of a weight-normed convolution, or None."""
    if official.startswith(ENCODER) and official.endswith(".conv.conv.weight"):
        return f"{official}_g", f"{official}_v"
    return None


def _official(name: str, recurrent: int, last: int) -> str:
    room, _, rest = name.partition(".")
    if room == "encoder":
        return ENCODER + _in_encoder(rest, recurrent, last)
    if room == "quantizer":
        _, level, buffer = rest.split(".")
        return f"{QUANTIZER}{level}._codebook.{_BUFFERS[buffer]}"
    if room == "backbone":
        return "backbone." + _in_backbone(rest)
    return name


def _in_encoder(rest: str, recurrent: int, last: int) -> str:
    part, _, inner = rest.partition(".")
    if part == "lstm":
        return f"{recurrent}.lstm.{inner}"
    if part in ("first", "last"):
        return f"{0 if part == 'first' else last}.conv.conv.{inner}"
    stage, kind, inner = inner.split(".", 2)
    if kind == "down":
        return f"{3 * int(stage) + 3}.conv.conv.{inner}"
    layer, _, leaf = inner.partition(".")
    return f"{3 * int(stage) + 1}.{_RESIDUAL[layer]}.conv.conv.{leaf}"


def _in_backbone(rest: str) -> str:
    part, _, inner = rest.partition(".")
    if part == "blocks":
        index, _, leaf = inner.partition(".")
        return f"convnext.{index}.{_BLOCK[leaf]}"
    if part == "norm":
        return f"norm.{inner}.weight"
    names = {"position_net": "pos_net", "final_norm": "final_layer_norm", "embed": "embed"}
    return f"{names[part]}.{inner}"
