"""The contract of every tokenizer, read first and changed last.

    x --latents--> z --quantize--> tokens --decode--> x^        tokens --embed--> quantized latents

Letters: B batch, N tokens, h w grid, D dimensions, P branches, Q codebook levels, T frames.

Ranges and shapes, always: images float (B, 3, H, W) in [-1, 1]; audio float (B, 1, T) in [-1, 1].
Codes int64 from 0: 1D image (B, N); grid (B, h, w); per dimension (B, h, w, D); branches
(B, P, ...); multi-scale (B, sum N); audio (B, Q, T), also for Q = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from tok_core.codebook import Codebook
from tok_core.model import Model
from tok_core.token_spec import TokenSpec

if TYPE_CHECKING:
    from tok_core.training_perturbation import TrainingPerturbation

NO_FEATURES: Mapping[str, Tensor] = MappingProxyType({})


class Tokens(NamedTuple):
    """Codes with what is needed to decode each item to exactly the size that went in.

    Attributes:
        codes: int64 (B, *axes of the spec).
        lengths: int64 (B,) valid positions per item, or None when all are valid.
        extent: int64 (B, 2) pixels (H, W) or (B, 1) samples of the input, or None for the natural
            size of the codes.
    """

    codes: Tensor
    lengths: Tensor | None = None
    extent: Tensor | None = None


class TrainingOutput(NamedTuple):
    """What `forward` returns; everything a loss or a log needs, named.

    Attributes:
        reconstruction: same shape as x, not clamped; None where the training target is not the
            signal (proxy codes).
        tokens: the codes this pass used; with latent perturbation, those before it.
        losses: the tokenizer's own scalar losses (quantizer, KL), already weighted, slash names.
        statistics: codebook statistics, reduced over processes.
        shortened: the same batch decoded from a random prefix, when tail drop trains jointly.
        features: further named tensors that a loss may ask for (``proxy_logits``...).
    """

    reconstruction: Tensor | None
    tokens: Tokens
    losses: dict[str, Tensor]
    statistics: dict[str, Tensor]
    shortened: Tensor | None = None
    features: Mapping[str, Tensor] = NO_FEATURES


class Autoencoder(Model):
    """A model with latents and a way back: continuous (KL) models stop at this floor."""

    # Names of parameters (or their prefixes) that decide the codes; the rest is decoder.
    code_prefixes: ClassVar[tuple[str, ...]] = ()

    @property
    def codes_are_frozen(self) -> bool:
        """Whether nothing that decides codes trains (decoder-only training, stage 2)."""
        return not any(
            p.requires_grad
            for name, p in self.named_parameters()
            if name.startswith(self.code_prefixes)
        )

    def code_gradients(self) -> torch.set_grad_enabled:
        """Return the context, for a ``with`` line alone, in which `forward` runs its encoder.

        Without gradients where nothing that decides codes trains: the encoder then also runs its
        fast forms.
        """
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.codes_are_frozen)

    def code_losses(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of what decides codes, 0 where none of it trains."""
        still = self.codes_are_frozen
        return {name: 0.0 * loss if still else loss for name, loss in losses.items()}

    def latents(self, x: Tensor) -> Tensor:
        """Map the signal to latents before quantization."""
        raise TypeError(f"{type(self).__name__} does not define latents")

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map latents (quantized or not) to the signal, in [-1, 1]."""
        raise TypeError(f"{type(self).__name__} does not define decode_latents")


class Tokenizer(Autoencoder):
    """Signal to tokens and back, through one set of words for images and sound.

    Attributes:
        perturbation: set by a trainer: codes are perturbed between quantization and decoder while
            the model trains. No part of the config or of the state.
    """

    perturbation: TrainingPerturbation | None = None

    @property
    def spec(self) -> TokenSpec:
        """What the codes look like."""
        raise TypeError(f"{type(self).__name__} does not define spec")

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """One `Codebook` per factor."""
        raise TypeError(f"{type(self).__name__} does not define codebooks")

    def encode(
        self, x: Tensor, *, lengths: Tensor | None = None, num_tokens: int | None = None
    ) -> Tokens:
        """Turn a signal into tokens.

        Args:
            x: image (B, 3, H, W) or audio (B, 1, T), float in [-1, 1].
            lengths: int64 (B,) valid samples per item of a padded audio batch.
            num_tokens: budget; None keeps the full length.
        """
        raise TypeError(f"{type(self).__name__} does not define encode")

    def decode(self, tokens: Tokens | Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Turn tokens into a signal in [-1, 1] of the size that went in.

        Args:
            tokens: `Tokens`, or bare codes, which decode to their natural size.
            condition: what ``spec.condition`` names, e.g. text features (B, 77, 768).
        """
        raise TypeError(f"{type(self).__name__} does not define decode")

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the quantized latents of tokens.

        Args:
            tokens: `Tokens` or bare codes.
            stream: one of ``spec.streams`` for a shared index over several tables.
            upto: accumulate scales or levels below this number only.
        """
        raise TypeError(f"{type(self).__name__} does not define embed")

    def code_hash(self) -> str:
        """Return the hash over encoder, quantizer and tables (64 hex digits).

        Tokens, shards and generators fit a tokenizer exactly when this hash agrees; training the
        decoder alone keeps it.
        """
        ours = {name for name, _ in self.named_parameters() if name.startswith(self.code_prefixes)}
        return self._hash("code", lambda name: name in ours)


def as_tokens(tokens: Tokens | Tensor) -> Tokens:
    """Wrap bare codes."""
    return tokens if isinstance(tokens, Tokens) else Tokens(tokens)
