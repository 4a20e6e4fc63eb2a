"""Codecs of the package transformers as contestants: EnCodec, DAC, Mimi.

Letters: B sounds, Q codebooks, T samples, F frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eval.contestant import Contestant, Reconstruction, Signal, stopwatch
from eval.local_network import model_of, transformers_for
from tok_core.errors import ConfigError
from tok_core.hashes import tensor_hash
from tok_core.resample import resample
from tok_core.token_file import token_file_size
from tok_core.token_spec import Axis, TokenSpec

CLASSES = {"encodec": "EncodecModel", "dac": "DacModel", "mimi": "MimiModel"}


class TransformersCodec(Contestant):
    """A codec of transformers from a local folder or the Hugging Face cache; nothing is downloaded.

    Its bytes are those of a ``.tok`` file with its codes, as for our own codecs.

    Args:
        kind: key of `CLASSES`. source: folder or hub id. name: as tables call it. device: to run.

    Raises:
        ConfigError: transformers is not installed. WeightsError: no such model on this machine.

    Example:
        >>> codec = TransformersCodec("encodec", "facebook/encodec_24khz")  # doctest: +SKIP
    """

    def __init__(
        self, kind: str, source: str, name: str | None = None, *, device: str = "cpu"
    ) -> None:
        self.kind, package = kind, transformers_for(source)
        self.model = model_of(package, CLASSES[kind], source, device, dtype=torch.float32)
        config = self.model.config
        self.rate = int(config.sampling_rate)
        self.channels = int(getattr(config, "audio_channels", 1) or 1)
        self.codes_of = int(config.codebook_size)
        self.hop, self.full = self._measures()
        sweep = sorted({max(1, self.full * part // 8) for part in (1, 2, 4, 8)})
        super().__init__(
            name=name or f"{kind}:{source}", sense="audio", budgets=(self.full,),
            sweep=tuple(sweep), budget_name="codebooks", spec=self._spec(),
            weights_hash=tensor_hash(self.model.state_dict().items(), CLASSES[kind]),
            parameters=sum(p.numel() for p in self.model.parameters()),
            identity={"class": CLASSES[kind]}, device=device,
        )  # fmt: skip

    def check_budget(self, budget: float | None) -> None:
        """Raise ConfigError for a number of codebooks that it has not."""
        if budget is not None and (budget != int(budget) or not 1 <= budget <= self.full):
            raise ConfigError(
                f"{budget:g} codebooks were asked of '{self.name}'; legal are 1 to {self.full}."
            )

    @torch.inference_mode()
    def reconstruct(
        self, signals: Sequence[Signal], budget: float | None = None
    ) -> list[Reconstruction]:
        """Encode and decode sound by sound; padding would change what a codec hears."""
        count = self.full if budget is None else int(budget)
        made = []
        for signal in signals:
            rate = signal.rate or self.rate
            sound = resample(signal.unit, rate, self.rate)
            padded = F.pad(sound, (0, -sound.shape[-1] % self.hop))
            x = padded[None].expand(1, self.channels, -1).to(self.device)
            with stopwatch(self.device) as encoding:
                coded = self._encode(x, count)
            with stopwatch(self.device) as decoding:
                decoded = self._decode(coded).float().cpu()
            values = decoded.reshape(-1, decoded.shape[-1]).mean(0, keepdim=True)
            codes = _codes(coded)
            size = token_file_size(
                tuple(codes.shape), max(1, math.ceil(math.log2(self.codes_of))),
                extent=(signal.values.shape[-1],), sample_rate=rate,
            )  # fmt: skip
            scales = coded.get("audio_scales") if self.kind == "encodec" else None
            size += 4 * sum(s.numel() for s in scales or () if s is not None)
            made.append(
                Reconstruction(
                    values[:, : sound.shape[-1]], rate=self.rate, bytes_on_disk=size,
                    tokens=codes[None], encode_seconds=encoding.seconds,
                    decode_seconds=decoding.seconds,
                )
            )  # fmt: skip
        return made

    def _encode(self, x: Tensor, count: int) -> Any:
        if self.kind == "dac":
            return self.model.encode(x, n_quantizers=count)
        if self.kind == "mimi":
            return self.model.encode(x, num_quantizers=count)
        # EnCodec asks for a bandwidth and turns it into a number of codebooks by rounding down.
        # Its own bandwidths are what it was trained for; others give that many codebooks too.
        bits = math.log2(self.codes_of) * self.rate / self.hop
        return self.model.encode(x, bandwidth=self._bandwidth(count, bits))

    def _bandwidth(self, count: int, bits: float) -> float:
        legal = self.model.config.target_bandwidths
        wanted = count * bits / 1000
        best = min(legal, key=lambda one: abs(one - wanted))
        if max(1, round(1000 * best / bits)) != count:
            counts = [max(1, round(1000 * one / bits)) for one in legal]
            raise ConfigError(
                f"'{self.name}' has no bandwidth with {count} codebooks; legal are "
                f"{', '.join(map(str, counts))}."
            )
        return float(best)

    def _decode(self, coded: Any) -> Tensor:
        if self.kind == "encodec":
            return self.model.decode(coded.audio_codes, coded.audio_scales)[0]
        return self.model.decode(audio_codes=coded.audio_codes)[0]

    def _spec(self) -> TokenSpec:
        axes = (Axis(name="level", size=self.full), Axis(name="time"))
        return TokenSpec(
            modality="audio", axes=axes, vocabulary=(self.codes_of,) * self.full,
            input_rate=self.rate, output_rate=self.rate, token_rate=self.rate / self.hop,
        )  # fmt: skip

    def _measures(self) -> tuple[int, int]:
        """Return samples per frame and the number of codebooks."""
        config = self.model.config
        if self.kind == "mimi":
            return round(self.rate / float(config.frame_rate)), int(config.num_quantizers)
        if self.kind == "dac":
            return int(config.hop_length), int(config.n_codebooks)
        hop = math.prod(config.upsampling_ratios)
        bits = math.log2(self.codes_of) * self.rate / hop
        return hop, max(1, round(1000 * max(config.target_bandwidths) / bits))


def _codes(coded: Any) -> Tensor:
    """Return int64 (Q, F); the chunks of EnCodec one after the other."""
    codes = coded.audio_codes
    if codes.ndim == 4:  # (chunks, B, Q, F)
        return codes[:, 0].permute(1, 0, 2).flatten(1).cpu()
    return codes[0].cpu()
