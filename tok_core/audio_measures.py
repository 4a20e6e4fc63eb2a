"""How close two sounds are: SI-SDR, STOI, PESQ; a number, or the reason why there is none.

STOI and PESQ come from the packages pystoi and pesq where these are installed.

Letters: B sounds, T samples.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tok_core.errors import ConfigError
from tok_core.resample import resample

PESQ_RATES = {"wb": (16_000,), "nb": (8_000, 16_000)}  # Hz, by mode
Sound = Tensor | np.ndarray[Any, Any]

# Why a sound has no number; a figure's code is a place in this list.
REASONS = (
    "",
    "a sound holds NaN or infinity",
    "the sound is too short for this measure",
    "the original is silent",
    "the decoded sound is silent",
    "PESQ finds no speech in the sound",
    "too little is left of the sound without its silence",
    "the measure is undefined for this sound",
)
NUMBER, NOT_FINITE, TOO_SHORT, SILENT_ORIGINAL, SILENT_COPY, NO_SPEECH, TOO_LITTLE, UNDEFINED = (
    range(len(REASONS))
)


class Figure(NamedTuple):
    """A number and a failure code.

    Args:
        value: NaN where there is none.
        code: 0, or a place in `REASONS`.
    """

    value: float
    code: int = NUMBER

    @property
    def reason(self) -> str:
        """The sentence for the code; empty where there is a number."""
        return REASONS[self.code]

    @property
    def or_none(self) -> float | None:
        """The number, or None without one."""
        return None if self.code else self.value


def failed(code: int) -> Figure:
    """Return the figure of a sound that has no number for one of the `REASONS`."""
    return Figure(float("nan"), code)


def si_sdr(x: Sound, y: Sound) -> float:
    """Scale-invariant signal-to-distortion ratio of ``y`` as a copy of ``x``, in dB.

    Args:
        x: the original, y: the copy; any equal shapes, all elements are one signal.

    Returns:
        dB, higher is better, inf for a scaled copy; -inf where either is silent.

    Source: Le Roux et al. 2019, arXiv 1811.02508, eq. 3, means removed.

    Example:
        >>> si_sdr(torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, -1.0, -1.0, 1.0]))
        -inf
    """
    a, b = _pair(x, y)
    a, b = a - a.mean(), b - b.mean()
    power = float(a @ a)
    if power == 0.0:
        return -float("inf")
    target = (float(a @ b) / power) * a
    signal, rest = float(target @ target), float((b - target) @ (b - target))
    if signal == 0.0:
        return -float("inf")
    return float("inf") if rest == 0.0 else 10.0 * float(np.log10(signal / rest))


def stoi(x: Sound, y: Sound, rate: int) -> float | None:
    """Short-time objective intelligibility, about 0 to 1; None without pystoi or without a number.

    Args:
        x: the original, y: the copy, equally long. rate: in Hz.

    Source: Taal et al. 2011, as in pystoi, not extended; see `measure_stoi`.

    Example:
        >>> stoi(speech, codec(speech), 24000)  # doctest: +SKIP
        0.91
    """
    return None if _package("pystoi") is None else measure_stoi(x, y, rate).or_none


def pesq_wb(x: Sound, y: Sound, rate: int) -> float | None:
    """Wide-band PESQ at 16 kHz, 1.0 to 4.64; None without the package or without a number.

    Args:
        x: the original, y: the copy, equally long. rate: in Hz; resampled to 16 kHz.

    Source: ITU-T P.862.2, as in the package pesq; see `measure_pesq`.

    Example:
        >>> pesq_wb(speech, codec(speech), 24000)  # doctest: +SKIP
        2.1
    """
    if _package("pesq") is None:
        return None
    (to,) = PESQ_RATES["wb"]
    a, b = (resample(torch.from_numpy(_flat(s)), rate, to) for s in (x, y))
    return measure_pesq(a, b, to).or_none


def measure_stoi(x: Sound, y: Sound, rate: int, *, extended: bool = False) -> Figure:
    """STOI, or ESTOI where ``extended``, at the sound's own rate.

    pystoi brings both to 10 kHz, drops frames 40 dB under the loudest of the original, and
    returns 1e-5 for sounds of which less than 30 frames (0.4 s) are left: here that is a failure.
    A silent copy of a sound is not: it is understood as 0.

    Args:
        x: the original, y: the copy, equally long. rate: in Hz.

    Raises:
        ConfigError: pystoi is not installed.

    Source: Taal et al. 2011; Jensen and Taal 2016 for the extended one.

    Example:
        >>> measure_stoi(torch.zeros(9), torch.zeros(9), 16000).reason
        'the sound is too short for this measure'
    """
    module = required_package("pystoi", "STOI", "eval")
    a, b = _pair(x, y)
    wrong = _unfit(a, b, rate, seconds=0.1)  # less would not fill the first windows
    if wrong is not None:
        return wrong
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("error", message="Not enough STFT frames")
        try:
            value = float(module.stoi(a, b, rate, extended=extended))
        except RuntimeWarning:
            return failed(TOO_LITTLE)
    return Figure(value) if np.isfinite(value) else failed(UNDEFINED)


def measure_pesq(x: Sound, y: Sound, rate: int, mode: str = "wb") -> Figure:
    """PESQ of P.862.2 (``wb``, 1.0 to 4.64) or P.862.1 (``nb``, 1.0 to 4.55).

    The package's error codes (-1, -7) are never taken for numbers.

    Args:
        x: the original, y: the copy, equally long.
        rate: 16000 for ``wb``, 8000 or 16000 for ``nb``. mode: one of these.

    Raises:
        ConfigError: another mode or rate, or the package pesq is not installed.

    Source: ITU-T P.862, as in the package pesq.

    Example:
        >>> measure_pesq(silence, silence, 16000).reason  # doctest: +SKIP
        'the original is silent'
    """
    if rate not in PESQ_RATES.get(mode, ()):
        raise ConfigError(
            f"PESQ mode '{mode}' at {rate} Hz came in; legal are wb at 16000 Hz and nb at 8000 or "
            "16000 Hz: resample the sounds first."
        )
    module = required_package("pesq", "PESQ", "pesq")
    a, b = _pair(x, y)
    wrong = _unfit(a, b, rate, seconds=0.25)
    if wrong is not None:
        return wrong
    if not b.any():
        return failed(SILENT_COPY)
    try:
        value = float(module.pesq(rate, a, b, mode))
    except module.NoUtterancesError:
        return failed(NO_SPEECH)
    except (module.PesqError, ValueError):
        return failed(UNDEFINED)
    return Figure(value) if np.isfinite(value) else failed(UNDEFINED)


def required_package(name: str, measure: str, extra: str) -> Any:
    """Return an optional package, or raise ConfigError that says how to get it."""
    module = _package(name)
    if module is None:
        raise ConfigError(
            f"{measure} needs the package {name}, which is not installed; run pip install {name}, "
            f"or install the extra '{extra}'."
        )
    return module


def _unfit(
    a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], rate: int, seconds: float
) -> Figure | None:
    """Return why an original and its copy cannot be measured at all."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return failed(NOT_FINITE)
    if len(a) < seconds * rate:
        return failed(TOO_SHORT)
    return None if a.any() else failed(SILENT_ORIGINAL)


def _pair(x: Sound, y: Sound) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    a, b = _flat(x), _flat(y)
    if a.shape != b.shape:
        raise ValueError(f"two sounds of {len(a)} and {len(b)} samples; cut them to one length")
    return a, b


def _flat(x: Sound) -> np.ndarray[Any, np.dtype[np.float64]]:
    plain = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    return np.ascontiguousarray(plain, dtype=np.float64).reshape(-1)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
