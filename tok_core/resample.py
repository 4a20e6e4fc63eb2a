"""One resampler for files, synthetic speech and measures.

Letters: T samples.
"""

from __future__ import annotations

from torch import Tensor

from tok_core.errors import ConfigError

RATES = (100, 1_000_000)  # Hz that a sound may have


def resample(x: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the sample rate with a Hann-windowed sinc kernel (width 6, roll-off 0.99).

    Args:
        x: (..., T) float; T may be 0.
        from_rate, to_rate: in Hz, 100 to 1,000,000.

    Returns:
        (..., ceil(T * to_rate / from_rate)), the type of ``x``; ``x`` itself at equal rates.

    Raises:
        ConfigError: a rate out of range, or torchaudio is not installed.

    Source: torchaudio.functional.resample, its defaults, which the WavTokenizer authors used.

    Example:
        >>> resample(torch.zeros(1, 16000), 16000, 24000).shape
        torch.Size([1, 24000])
    """
    for rate in (from_rate, to_rate):
        if not RATES[0] <= rate <= RATES[1]:
            raise ConfigError(
                f"a sample rate of {rate} Hz came in; give {RATES[0]} to {RATES[1]} Hz"
            )
    if from_rate == to_rate or x.shape[-1] == 0:
        return x
    return _torchaudio_resample(x, from_rate, to_rate)


def _torchaudio_resample(x: Tensor, from_rate: int, to_rate: int) -> Tensor:
    from tok_core.torchaudio_guard import guard_torchaudio

    guard_torchaudio()
    try:
        from torchaudio.functional import resample as convert
    except ImportError:
        raise ConfigError(
            f"changing {from_rate} Hz to {to_rate} Hz needs torchaudio, which is not installed; "
            "install the extra 'audio' (torchaudio, soundfile)"
        ) from None
    return convert(x, from_rate, to_rate)
