"""Samples of one sound: in memory while they are few, in a temporary file when they are many.

Letters: C channels, n samples.
"""

from __future__ import annotations

import tempfile
import threading

import numpy as np
import torch
from torch import Tensor

from tok_core.atomic_write import write_error

IN_MEMORY = 16 << 20  # bytes of one sound: 3 minutes of one channel at 24 kHz


class SampleStore:
    """An append-only signal (C, T) of float32 that can be read anywhere.

    Long sounds lie in an unnamed file of the temporary folder, which the system removes with the
    object.

    Args:
        channels: C.

    Example:
        >>> store = SampleStore(1)
        >>> store.append(torch.ones(1, 5))
        >>> store.read(3, 5)
        tensor([[1., 1.]])
    """

    def __init__(self, channels: int) -> None:
        self.channels, self.length = channels, 0
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self._lock = threading.Lock()

    def append(self, block: Tensor) -> None:
        """Add (C, n) at the end.

        Raises:
            TesseraError: the temporary folder is full.
        """
        if not block.shape[-1]:
            return
        data = np.ascontiguousarray(block.detach().cpu().float().numpy().T)
        with self._lock:
            try:
                self._file.seek(0, 2)
                self._file.write(data.tobytes())
            except OSError as error:
                raise write_error(f"a file in {tempfile.gettempdir()}", error) from None
        self.length += len(data)

    def read(self, start: int, stop: int) -> Tensor:
        """Return a copy of samples start to stop, (C, n), cut off at the end."""
        start, stop = max(0, start), min(stop, self.length)
        width = 4 * self.channels
        with self._lock:
            self._file.seek(start * width)
            data = self._file.read(max(0, stop - start) * width)
        values = np.frombuffer(data, dtype=np.float32).reshape(-1, self.channels)
        return torch.from_numpy(values.T.copy())
