"""Autoencoders of the package diffusers as contestants: VQModel and AutoencoderKL.

Letters: H W pixels, h w cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from eval.contestant import Contestant, Reconstruction, Signal, grouped, stopwatch
from eval.local_network import model_of
from tok_core.hashes import tensor_hash
from tok_core.token_file import token_file_size
from tok_core.token_spec import Axis, TokenSpec
from tok_core.torchaudio_guard import guard_torchaudio

CLASSES = {"vqmodel": "VQModel", "kl": "AutoencoderKL"}


class DiffusersAutoencoder(Contestant):
    """A VQModel (codes, so a rate) or an AutoencoderKL (its mean; no codes, so no rate).

    Args:
        kind: key of `CLASSES`. source: folder or hub id in the cache; nothing is downloaded.
        name: as tables call it. device: where to run. batch_size: pictures per call.

    Raises:
        WeightsError: no such model on this machine.

    Example:
        >>> DiffusersAutoencoder("kl", "stabilityai/sd-vae-ft-mse")  # doctest: +SKIP
    """

    def __init__(
        self, kind: str, source: str, name: str | None = None, *, device: str = "cpu",
        batch_size: int = 16,
    ) -> None:  # fmt: skip
        self.kind, self.batch_size = kind, batch_size
        guard_torchaudio()
        import diffusers

        self.model = model_of(diffusers, CLASSES[kind], source, device)
        config = self.model.config
        self.step = 2 ** (len(config.block_out_channels) - 1)
        codes = int(config.num_vq_embeddings) if kind == "vqmodel" else 0
        self.bits = max(1, math.ceil(math.log2(codes))) if codes else 0
        super().__init__(
            name=name or f"{kind}:{source}", sense="image", spec=_spec(codes) if codes else None,
            weights_hash=tensor_hash(self.model.state_dict().items(), CLASSES[kind]),
            parameters=sum(p.numel() for p in self.model.parameters()),
            identity={"class": CLASSES[kind], "batch": batch_size}, device=device,
        )  # fmt: skip

    @torch.inference_mode()
    def reconstruct(
        self, signals: Sequence[Signal], budget: float | None = None
    ) -> list[Reconstruction]:
        """Encode and decode; sides that are no multiple of the step are continued by repetition."""
        made: list[Reconstruction | None] = [None] * len(signals)
        for places, part in grouped(signals, lambda s: s.values.shape, self.batch_size):
            x = torch.stack([signal.unit for signal in part]).to(self.device)
            height, width = x.shape[-2:]
            x = F.pad(x, (0, -width % self.step, 0, -height % self.step), mode="replicate")
            with stopwatch(self.device) as encoding:
                latents, codes = self._encode(x)
            with stopwatch(self.device) as decoding:
                decoded = self._decode(latents).float().cpu().clamp(-1, 1)
            for row, place in enumerate(places):
                cells = None if codes is None else codes[row].cpu()
                size = None if cells is None else token_file_size(
                    tuple(cells.shape), self.bits, extent=(height, width)
                )  # fmt: skip
                made[place] = Reconstruction(
                    decoded[row, :, :height, :width], bytes_on_disk=size,
                    tokens=None if cells is None else cells[None],
                    encode_seconds=encoding.seconds / len(places),
                    decode_seconds=decoding.seconds / len(places),
                )
        return [one for one in made if one is not None]

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.kind == "kl":
            return self.model.encode(x).latent_dist.mode(), None
        latents = self.model.encode(x).latents
        quantized, _, (_, _, indices) = self.model.quantize(latents)
        codes = indices.reshape(len(x), *latents.shape[-2:])
        return quantized, codes

    def _decode(self, latents: Tensor) -> Tensor:
        if self.kind == "kl":
            return self.model.decode(latents).sample
        return self.model.decode(latents, force_not_quantize=True).sample


def _spec(codes: int) -> TokenSpec:
    axes = (Axis(name="row"), Axis(name="column"))
    return TokenSpec(modality="image", axes=axes, vocabulary=(codes,))
