"""Teachers of transformers: a hidden layer of HuBERT, WavLM, wav2vec 2.0 and their like.

    x (B, 1, T) --rate--> --mean 0, variance 1--> network --layer--> (B, L, D)

Letters: B sounds, T samples, L frames, D features.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audio_tok.semantic_teacher import SemanticTeacher
from tok_core.errors import ConfigError, WeightsError
from tok_core.resample import resample
from tok_core.torchaudio_guard import guard_torchaudio

_PIECES = ("masked_spec_embed",)  # tensors that only a network's own pretraining needs


class TransformersTeacher(SemanticTeacher):
    """A hidden layer of a speech network of transformers that takes raw samples.

    Args:
        name: folder, or a hub id in the cache. rate: of the sound it gets here, in Hz.
        layer, normalise: see `SemanticTeacherConfig`.

    Raises:
        ConfigError: transformers is missing, a layer that the network has not, or a network that
            does not take samples. WeightsError: no such network here, or a file that lacks tensors.

    Source: hidden layers of HuBERT as the target of a codec: Zhang et al. 2023, arXiv 2308.16692,
    section 3.2.

    Example:
        >>> TransformersTeacher("facebook/hubert-base-ls960", 24000).features  # doctest: +SKIP
        768
    """

    def __init__(
        self, name: str, rate: int, *, layer: int | Literal["mean"] = -1,
        normalise: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.network_rate, preprocessed = _load(name)
        self.network.requires_grad_(False).eval()
        config = self.network.config
        kernels, strides = (getattr(config, f"conv_{n}", None) for n in ("kernel", "stride"))
        layers = getattr(config, "num_hidden_layers", None)
        if not kernels or not strides or layers is None:
            raise ConfigError(
                f"teacher '{name}' is a {type(self.network).__name__}, which takes no raw samples; "
                "name a network such as HuBERT, WavLM or wav2vec 2.0."
            )
        if layer != "mean" and not -layers - 1 <= layer <= layers:
            raise ConfigError(
                f"layer {layer} of teacher '{name}' was asked for; legal are 0 to {layers}, "
                f"-{layers + 1} to -1, and 'mean'."
            )
        self.layer, self.sound_rate = layer, rate
        self.normalise = preprocessed if normalise is None else normalise
        self.hop = math.prod(strides)
        self.window = 1
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            self.window = (self.window - 1) * stride + kernel
        self.features = int(config.hidden_size)
        self.rate = self.network_rate / self.hop
        self.first = self.window / 2 / self.network_rate

    def frames(self, x: Tensor) -> Tensor:
        """Return the layer (B, L, D)."""
        sound = resample(x, self.sound_rate, self.network_rate)[:, 0]
        short = self.window - sound.shape[-1]
        if short > 0:
            sound = nn.functional.pad(sound, (0, short))
        if self.normalise:
            variance, mean = torch.var_mean(sound, -1, unbiased=False, keepdim=True)
            sound = (sound - mean) / (variance + 1e-7).sqrt()
        states = self.network(sound, output_hidden_states=True).hidden_states
        return torch.stack(states).mean(0) if self.layer == "mean" else states[self.layer]


def _load(name: str) -> tuple[Any, int, bool]:
    """Return a network with the rate it takes and whether its sounds are normalised."""
    guard_torchaudio()
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            f"teacher '{name}' needs the package transformers, which is not installed; run pip "
            "install transformers, or take the mel-cepstral teacher."
        ) from None
    try:
        network, report = transformers.AutoModel.from_pretrained(
            name, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"there is no teacher '{name}' on this machine ({str(error).splitlines()[0]}); put its "
            "folder with config.json and weights here and name its path: nothing is downloaded."
        ) from None
    lacking = sorted(key for key in report["missing_keys"] if not key.endswith(_PIECES))
    if lacking:
        raise WeightsError(
            f"teacher '{name}' lacks {len(lacking)} tensors, such as {lacking[0]}; its folder is "
            "not whole: fetch it again."
        )
    try:
        told = transformers.AutoFeatureExtractor.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):
        # Models saved without their preprocessor: all of this kind hear 16 kHz, and those with
        # layer norms between the convolutions were trained on normalised sound.
        return network, 16_000, getattr(network.config, "feat_extract_norm", "") == "layer"
    return network, int(told.sampling_rate), bool(getattr(told, "do_normalize", False))
