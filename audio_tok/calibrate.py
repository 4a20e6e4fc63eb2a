"""Make a tokenizer of a continuous codec: measure scale, range and channel order on sound.

    tessera calibrate runs/kl-codec-tiny/model -o models/mine --data recordings/
    tessera calibrate runs/kl-codec-tiny/model -o models/mine --data speech --bits 5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from audio_tok.audio_data import AudioDataConfig, open_audio
from audio_tok.dimension_wise_codec import DimensionWiseCodec, as_codec
from tok_core.calibration_batches import signal_batches
from tok_core.errors import ConfigError

COUNT = 256  # clips: 77,000 frames at 100 a second, seven beyond the 99.99th percentile of each
SECONDS = 3.0
# Classes of model folders that this program takes.
TAKES = ("KLCodec", "DimensionWiseCodec")


def calibrate_sounds(
    model: Any, data: str, *, seconds: float = SECONDS, count: int = COUNT, device: str = "cpu",
    progress: Callable[[int], None] = lambda clips: None, **settings: Any,
) -> DimensionWiseCodec:  # fmt: skip
    """Make a tokenizer of a continuous codec by measuring its latents on sound.

    Args:
        model: a codec as `audio_tok.dimension_wise_codec.as_codec` takes it: folder, hub id or
            object, or the tokenizer over one.
        data: folder of sounds, a list of files, or a synthetic source such as ``speech``.
        seconds: of a clip. count: of clips, cut anywhere out of the sounds.
        device: that measures; the tokenizer comes back on the CPU.
        progress: told how many more clips are measured.
        settings: as `tok_core.dimension_calibration.calibrate` takes them, such as ``bits``.

    Raises:
        ConfigError: no continuous codec, no sound, illegal settings. WeightsError: no model there.
        MediaError: no sound can be read.

    Example:
        >>> calibrate_sounds("runs/mine/model", "recordings/", bits=5)  # doctest: +SKIP
    """
    source = as_codec(model)
    rate = source.settings.sample_rate
    if not seconds * rate >= 1:
        raise ConfigError(
            f"seconds is {seconds:g}; give the length of a clip, such as {SECONDS:g}."
        )
    sounds = open_audio(
        AudioDataConfig(path=data, segment=round(seconds * rate), sample_rate=rate)
    )
    batches = signal_batches(sounds, count=count, what="sound", progress=progress)
    return DimensionWiseCodec.calibrated(source.to(device), batches, **settings).to("cpu")
