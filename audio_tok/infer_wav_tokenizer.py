"""Names and sizes of a published WavTokenizer checkpoint, read off its keys and shapes.

Nothing is asked of a config file, so a config can never contradict its checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tok_core.errors import WeightsError
from tok_core.official_names import Shapes

ENCODER = "feature_extractor.encodec.encoder.model."
QUANTIZER = "feature_extractor.encodec.quantizer.vq.layers."
# An EnCodec decoder that the published class carries along and never runs.
DEAD = ("feature_extractor.encodec.decoder.",)
# What a training checkpoint holds beside the codec.
TRAINING_ONLY = (
    "multiperioddisc.", "multiresddisc.", "dac.", "dacdiscriminator.", "melspec_loss.",
)  # fmt: skip
WINDOW = "head.istft.window"
SAMPLE_RATE = 24_000  # of all published checkpoints; no tensor shows it


def codec_part(names: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the dead decoder and the training extras, by name."""
    return {n: value for n, value in names.items() if not n.startswith((*DEAD, *TRAINING_ONLY))}


def wav_tokenizer_values(shapes: Shapes) -> dict[str, Any]:
    """Return the keyword values of `audio_tok.wav_tokenizer.WavTokenizer` for these shapes.

    Raises:
        WeightsError: a tensor that says a size is missing, or the head does not fit the strides.
    """
    try:
        return _values(shapes)
    except KeyError as error:
        raise WeightsError(
            f"the checkpoint lacks {error.args[0]}; this is not a whole WavTokenizer file."
        ) from None


def _values(shapes: Shapes) -> dict[str, Any]:
    strides = stage_strides(shapes)
    codes, latent_dim = shapes[f"{QUANTIZER}0._codebook.embed"]
    if shapes["backbone.embed.weight"][1] != latent_dim:
        raise WeightsError(
            f"the codes are {latent_dim} wide but the backbone takes "
            f"{shapes['backbone.embed.weight'][1]}; this file mixes two models."
        )
    return {
        "sample_rate": SAMPLE_RATE,
        "strides": strides,
        "encoder_width": shapes[f"{ENCODER}0.conv.conv.bias"][0],
        "latent_dim": latent_dim,
        "lstm_layers": lstm_layers(shapes),
        "codebook_size": codes,
        "num_codebooks": _count(shapes, re.escape(QUANTIZER) + r"(\d+)\."),
        "width": shapes["backbone.embed.weight"][0],
        "hidden": shapes["backbone.convnext.0.pwconv1.weight"][0],
        "layers": _count(shapes, r"backbone\.convnext\.(\d+)\."),
        "attention": any(name.startswith("backbone.pos_net.") for name in shapes),
        "condition_ids": shapes["backbone.norm.scale.weight"][0],
        "n_fft": shapes["head.out.weight"][0] - 2,
        # As published: averages with Laplace smoothing, 200 iterations of k-means, and no restart,
        # for theirs is overwritten within the same step.
        "quantizer": {"ema_smoothing": 1e-5, "kmeans_iterations": 200},
    }


def stage_strides(shapes: Shapes) -> list[int]:
    """Return the strides in order of execution; a strided convolution's kernel is twice its own."""
    strides = []
    for place in range(3, 3 * len(shapes), 3):
        shape = shapes.get(f"{ENCODER}{place}.conv.conv.weight_v")
        # The last convolution can stand at a multiple of three, too, but leads no residual block.
        if shape is None or f"{ENCODER}{place - 2}.shortcut.conv.conv.bias" not in shapes:
            break
        strides.append(shape[2] // 2)
    if not strides:
        raise KeyError(f"{ENCODER}3.conv.conv.weight_v")
    return strides


def lstm_layers(shapes: Shapes) -> int:
    """Return the number of LSTM layers."""
    return _count(shapes, re.escape(ENCODER) + r"\d+\.lstm\.weight_ih_l(\d+)")


def _count(shapes: Shapes, pattern: str) -> int:
    found = (re.match(pattern, name) for name in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)
