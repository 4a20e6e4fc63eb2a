"""Importer of the published WavTokenizer checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from audio_tok.infer_wav_tokenizer import WINDOW, codec_part, wav_tokenizer_values
from audio_tok.official_keys import official_names, weight_norm_parts
from audio_tok.wav_tokenizer import WavTokenizer
from audio_tok.weight_norm import fold_weight_norm
from tok_core.errors import WeightsError
from tok_core.official_fit import check_names, fill
from tok_core.official_names import shapes_of
from tok_core.official_weights import read_state

_FILES = ("*.ckpt", "*.safetensors", "*.bin", "*.pt")


def import_wav_tokenizer(path: str | Path) -> WavTokenizer:
    """Read a published checkpoint; every key must find its place on both sides.

    The preset (hop, widths, codebook...) follows from the tensors' shapes; weight norm is folded;
    the EnCodec decoder that never runs and the discriminators of the training are left out by name.

    Args:
        path: a Lightning ``.ckpt``, a safetensors file with the same keys, or a folder with one
            such file.

    Returns:
        The model in eval mode, float32, on the CPU.

    Raises:
        WeightsError: unreadable, keys left over on either side, shapes that do not fit.

    Example:
        >>> codec = import_wav_tokenizer("WavTokenizer_small_320_24k_4096.ckpt")  # doctest: +SKIP
    """
    file = _weights_file(Path(path))
    return wav_tokenizer_from_state(read_state(file), name=str(path))


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(f"there is no file {path}; give a published .ckpt or .safetensors.")
    found = sorted(file for pattern in _FILES for file in path.glob(pattern))
    weights = [file for file in found if file.name != "io.safetensors"]
    if len(weights) != 1:
        names = ", ".join(file.name for file in weights) or "none"
        raise WeightsError(f"{path} holds {names} of the files that could be meant; name one.")
    return weights[0]


def wav_tokenizer_from_state(
    state: Mapping[str, Tensor], *, name: str = "the checkpoint"
) -> WavTokenizer:
    """Build the codec that a state dict with official names belongs to (it may be on meta).

    Args:
        state: tensors by official name; discriminators and other training extras may be there.
        name: of the source, for errors.

    Raises:
        WeightsError: keys left over on either side, shapes that do not fit.
    """
    kept: dict[str, Tensor] = codec_part(state)
    values = wav_tokenizer_values(shapes_of(kept))
    with torch.device("meta"):
        model = WavTokenizer(**values)
    window = kept.pop(WINDOW, None)
    if window is None:
        raise WeightsError(f"{name} lacks {WINDOW}; this is not a whole WavTokenizer file.")
    _check_window(window, model.settings.n_fft, name)
    _fill(model, kept, name)
    return model.eval()


def _check_window(window: Tensor, n_fft: int, name: str) -> None:
    """The head makes its window itself, so the stored one has to be that window."""
    fits = window.shape == (n_fft,)
    if fits and not window.is_meta:
        fits = bool(torch.allclose(window.float(), torch.hann_window(n_fft), atol=1e-5))
    if not fits:
        raise WeightsError(
            f"{name} has {WINDOW} of shape {tuple(window.shape)}; the head of FFT size {n_fft} "
            "needs the Hann window of that length: this file mixes two models."
        )


def _fill(model: WavTokenizer, state: dict[str, Tensor], name: str) -> None:
    names = official_names(model)
    wanted = [part for own in names.values() for part in weight_norm_parts(own) or (own,)]
    check_names(wanted, state, name, "WavTokenizer")
    folded = {official: _tensor(state, official, name) for official in names.values()}
    fill(model, {own: (official,) for own, official in names.items()}, folded, name)


def _tensor(state: Mapping[str, Tensor], official: str, name: str) -> Tensor:
    parts = weight_norm_parts(official)
    if parts is None:
        return state[official]
    length, direction = (state[part].float() for part in parts)
    if length.shape != (len(direction), *(1 for _ in direction.shape[1:])):
        raise WeightsError(
            f"{name} has {parts[0]} of shape {tuple(length.shape)} for {parts[1]} of shape "
            f"{tuple(direction.shape)}; one length per output channel is legal."
        )
    return fold_weight_norm(length, direction)
