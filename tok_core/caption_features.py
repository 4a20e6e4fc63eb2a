"""Caption features as files: one ``.npy`` array (n, C) per sample, as text encoders give them.

    caption --text encoder (T5, CLIP ...)--> (n, C) --numpy.save--> KEY.npy beside KEY.jpg
    short caption --the same--> KEY.short.npy, where there is one

What is read may come from anyone: nothing is unpickled, and no memory is taken for more than is
there.  Letters: n text positions, C features.
"""

from __future__ import annotations

import ast

import numpy as np

from tok_core.errors import MediaError

SUFFIX = ".npy"
SHORT_SUFFIX = ".short.npy"
MOST_POSITIONS = 4096  # n; longer ones are no caption
MOST_BYTES = 1 << 26  # of one file
_TYPES = ("float16", "float32")


def read_features(data: bytes, name: str) -> np.ndarray:
    """Return the features of one caption, float32 (n, C).

    Args:
        data: bytes of a ``.npy`` file, float16 or float32 (n, C), as `numpy.save` writes it.
        name: of the file, for errors.

    Raises:
        MediaError: it is no such file, of another shape or type, cut off, or holds NaN or Inf.

    Example:
        >>> read_features(Path("cat.npy").read_bytes(), "cat.npy").shape  # doctest: +SKIP
        (20, 768)
    """
    try:
        shape, kind, start = _header(data)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise MediaError(
            f"{name} holds no caption features: it is no whole .npy file of numbers; write them "
            "with numpy.save"
        ) from None
    fits = len(shape) == 2 and 1 <= shape[0] <= MOST_POSITIONS and shape[1] >= 1
    if not fits or kind.name not in _TYPES:
        raise MediaError(
            f"{name} holds {kind.name} of shape {shape}; caption features are float16 or float32 "
            f"(positions, features) with 1 to {MOST_POSITIONS} positions"
        )
    if len(data) - start != shape[0] * shape[1] * kind.itemsize:
        raise MediaError(
            f"{name} is cut off or too long for its shape {shape}; write the caption's features "
            "again"
        )
    found = np.frombuffer(data, kind, offset=start).reshape(shape).astype(np.float32)
    if not np.isfinite(found).all():
        raise MediaError(f"{name} holds NaN or Inf; write the caption's features again")
    return found


def _header(data: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape, type and first byte of the numbers; any error means a broken file."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        raise ValueError
    wide = data[6] >= 2
    first = 12 if wide else 10
    end = first + int.from_bytes(data[8:first], "little")
    if not first < end <= len(data):
        raise ValueError
    header = ast.literal_eval(data[first:end].decode("latin1"))
    shape, order = header["shape"], header["fortran_order"]
    if order is not False or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError
    if not isinstance(header["descr"], str):  # fields of a record
        raise ValueError
    kind = np.dtype(header["descr"])
    if kind.hasobject:
        raise ValueError
    return tuple(shape), kind, end
