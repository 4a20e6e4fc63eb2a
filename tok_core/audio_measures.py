"""How close two sounds are: SI-SDR, STOI, PESQ.

STOI and PESQ come from the packages pystoi and pesq where these are installed.

Letters: B sounds, T samples.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tok_core.resample import resample

_PESQ_RATE = 16_000
_SHORTEST_STOI = 0.5  # seconds; STOI needs 30 frames of 12.8 ms that are not silent
Sound = Tensor | np.ndarray[Any, Any]


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
    a, b = _flat(x), _flat(y)
    if a.shape != b.shape:
        raise ValueError(f"two sounds of {len(a)} and {len(b)} samples; cut them to one length")
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
    """Short-time objective intelligibility, about 0 to 1; None without pystoi or for less than
    half a second.

    Args:
        x: the original, y: the copy, equally long. rate: in Hz.

    Source: Taal et al. 2011, as in pystoi, not extended.

    Example:
        >>> stoi(speech, codec(speech), 24000)  # doctest: +SKIP
        0.91
    """
    module = _package("pystoi")
    a, b = _flat(x), _flat(y)
    if module is None or len(a) < _SHORTEST_STOI * rate or not a.any():
        return None
    import warnings

    with warnings.catch_warnings():  # too few frames of speech: 1e-5 and a warning
        warnings.simplefilter("error", RuntimeWarning)
        try:
            value = float(module.stoi(a, b, rate, extended=False))
        except (RuntimeWarning, ValueError):
            return None
    return value if np.isfinite(value) else None


def pesq_wb(x: Sound, y: Sound, rate: int) -> float | None:
    """Wide-band PESQ at 16 kHz, 1.0 to 4.64; None without the package or where it finds no speech.

    Args:
        x: the original, y: the copy, equally long. rate: in Hz; resampled to 16 kHz.

    Source: ITU-T P.862.2, as in the package pesq.

    Example:
        >>> pesq_wb(speech, codec(speech), 24000)  # doctest: +SKIP
        2.1
    """
    module = _package("pesq")
    if module is None:
        return None
    a, b = (resample(torch.from_numpy(_flat(s)), rate, _PESQ_RATE).numpy() for s in (x, y))
    if len(a) < _PESQ_RATE // 4 or not (a.any() and b.any()):
        return None
    try:
        value = float(module.pesq(_PESQ_RATE, a, b, "wb"))
    except (module.PesqError, ValueError):
        return None
    return value if np.isfinite(value) else None


def _flat(x: Sound) -> np.ndarray[Any, np.dtype[np.float64]]:
    plain = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    return np.ascontiguousarray(plain, dtype=np.float64).reshape(-1)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
