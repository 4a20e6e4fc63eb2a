"""Vector quantizer: every latent becomes the index of its nearest code.

    z ──(normalise)──▶ nearest code ──▶ codes ──lookup──▶ c ──straight through──▶ z + sg(c - z)

Letters: K codes, D dimensions, N latents (all leading axes together), sg stop-gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.code_search import CodeSearch
from tok_core.codebook import check_codes
from tok_core.codebook_usage import codebook_statistics
from tok_core.dead_codes import restart_dead_codes
from tok_core.ema_codebook import update_ema_codebook
from tok_core.errors import ConfigError, nearest
from tok_core.full_float32 import full_float32
from tok_core.kmeans import kmeans
from tok_core.nearest_code import nearest_code
from tok_core.online_clustering import online_clustering
from tok_core.processes import from_first_process, sum_over_processes
from tok_core.scale_usage import AverageHits

UPDATES = ("gradient", "ema", "clustering")


class Quantized(NamedTuple):
    """What quantization returns."""

    latents: Tensor
    """(..., D) what the decoder gets, in the dtype of the input."""
    codes: Tensor
    """(...) int64 in [0, K)."""
    losses: dict[str, Tensor]
    """``quantizer/codebook`` and ``quantizer/commitment``, float32 scalars, already weighted."""
    statistics: dict[str, Tensor]
    """``codebook/usage``, ``codebook/perplexity`` (scalars), ``codebook/counts`` (K,)."""
    searches: tuple[CodeSearch, ...] | None = None
    """What the codes are nearest to; empty while latents pass unquantized, None: not told."""
    straight: Tensor | None = None
    """What was quantized, in the layout of ``latents`` and with its gradient: where that of a
    replaced code goes. None: where ``latents`` send theirs."""
    dropped: Tensor | None = None
    """bool (B,), items whose fine scales quantizer dropout may have taken; None without it."""


class VectorQuantizer(nn.Module):
    """One codebook of K vectors, channels last, always in float32.

    The codebook changes only in training mode, and not while ``codebook.requires_grad`` is off
    (``update="ema"`` never has it on: there training mode alone decides, see ``frozen``).
    ``forward`` is a collective (statistics are summed over processes); ``encode`` and
    ``lookup`` are not.

    Args:
        codebook_size: K.
        code_dim: D.
        l2_normalize: measure on the unit sphere; latents are replaced by, and codes returned as,
            their unit vectors. The stored codebook stays raw.
        commitment_weight: of the commitment loss.
        update: ``"gradient"`` (codebook loss), ``"ema"`` (averages of assigned latents; no
            codebook loss) or ``"clustering"`` (gradient, and rarely used codes are drawn to
            latents).
        ema_decay: of the averages of ``"ema"`` and ``"clustering"``, in (0, 1).
        kmeans_start: put the codebook on k-means centres of the first batch that is quantized in
            training.
        dead_code_every: training forwards between restarts of codes unused since the last one;
            0 never restarts.
        straight_through: False passes the looked-up code itself on, so that the decoder's
            gradient reaches the codebook and not the encoder.
        quantize_after_steps: training forwards that pass latents on unquantized (codes are still
            reported, losses are 0) before quantization begins.
        ema_smoothing: of ``"ema"``, see `tok_core.ema_codebook.update_ema_codebook`; 0 lets codes
            without latents stay, 1e-5 is what EnCodec and WavTokenizer were trained with.
        kmeans_iterations: of the k-means start.
        official_rank0_ema: ``"ema"`` learns from the first process's latents alone, as EnCodec and
            its heirs do (their statistics are never summed and the first copy wins).
        official_double_ema: ``"ema"`` learns from every batch twice, before and after it is coded:
            WavTokenizer's discriminator turn moves the codebook, too.
        average_usage: keep running averages of hits, for usage over many batches, reported as
            ``codebook/average_usage``; see `tok_core.scale_usage.AverageHits`.

    Attributes:
        codebook: (K, D) parameter.
        usage_ema: (K,) only for ``"ema"`` (average count) and ``"clustering"`` (average fraction).
        bypass: True passes latents on unquantized in either mode, until set back.
        frozen: True keeps the codebook and its averages as they are in training mode too.

    Raises:
        ConfigError: unknown ``update`` or a number out of range.

    Source: van den Oord et al. 2017, arXiv 1711.00937, eq. 1 to 3 and appendix A.1 (EMA);
    Yu et al. 2021, arXiv 2110.04627, section 3.2 (l2-normalised codes).

    Example:
        >>> quantizer = VectorQuantizer(4096, 12, l2_normalize=True)
        >>> quantizer(torch.randn(2, 256, 12)).codes.shape
        torch.Size([2, 256])
    """

    usage_ema: Tensor
    sum_ema: Tensor
    initialised: Tensor
    recent_counts: Tensor
    learned_forwards: Tensor
    training_forwards: Tensor

    def __init__(
        self,
        codebook_size: int,
        code_dim: int,
        *,
        l2_normalize: bool = False,
        commitment_weight: float = 0.25,
        update: str = "gradient",
        ema_decay: float = 0.99,
        kmeans_start: bool = False,
        dead_code_every: int = 0,
        straight_through: bool = True,
        quantize_after_steps: int = 0,
        ema_smoothing: float = 0.0,
        kmeans_iterations: int = 10,
        official_rank0_ema: bool = False,
        official_double_ema: bool = False,
        average_usage: bool = False,
    ) -> None:
        super().__init__()
        _check_options(codebook_size, code_dim, update, ema_decay)
        _check_counts(dead_code_every, quantize_after_steps)
        _check_start(ema_smoothing, kmeans_iterations)
        self.codebook_size, self.code_dim = codebook_size, code_dim
        self.l2_normalize, self.commitment_weight = l2_normalize, commitment_weight
        self.update, self.ema_decay = update, ema_decay
        self.kmeans_start, self.dead_code_every = kmeans_start, dead_code_every
        self.straight_through, self.quantize_after_steps = straight_through, quantize_after_steps
        self.ema_smoothing, self.kmeans_iterations = ema_smoothing, kmeans_iterations
        self.official_rank0_ema = official_rank0_ema
        self.official_double_ema = official_double_ema and update == "ema"
        self.bypass = self.frozen = False
        start = torch.empty(codebook_size, code_dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        self.codebook = nn.Parameter(start, requires_grad=update != "ema")
        # State exists only where an option needs it, so a published gradient codebook is the
        # codebook alone. Tensors, not Python values: they travel in safetensors.
        if update != "gradient":
            self.register_buffer("usage_ema", torch.full((codebook_size,), float(update == "ema")))
        if update == "ema":
            self.register_buffer("sum_ema", start.clone())
        if kmeans_start:
            self.register_buffer("initialised", torch.zeros((), dtype=torch.int64))
        if dead_code_every:
            self.register_buffer("recent_counts", torch.zeros(codebook_size, dtype=torch.int64))
            self.register_buffer("learned_forwards", torch.zeros((), dtype=torch.int64))
        if quantize_after_steps:
            self.register_buffer("training_forwards", torch.zeros((), dtype=torch.int64))
        self.average = AverageHits(1, codebook_size) if average_usage else None

    @property
    def vectors(self) -> Tensor:
        """The (K, D) float32 table codes are assigned with: unit vectors if l2-normalised."""
        with full_float32(self.codebook.device.type):
            return self._normalised(self.codebook.float())

    def forward(self, z: Tensor) -> Quantized:
        """Quantize ``z`` (..., D) and, in training mode, keep the codebook up to date."""
        self._check_width(z)
        with full_float32(z.device.type):
            return self._quantize(z.float(), z.dtype)

    def encode(self, z: Tensor) -> Tensor:
        """Return the codes (...) of ``z`` (..., D); no state changes, no collective."""
        self._check_width(z)
        with torch.no_grad(), full_float32(z.device.type):
            return self._codes(self._normalised(z.float()))

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors (..., D) of int64 ``codes`` (...) in [0, K); TokenError otherwise."""
        check_codes(codes, self.codebook_size)
        return self._rows(codes)

    def lookup_soft(self, weights: Tensor) -> Tensor:
        """Return mixtures (..., D) of the codes by ``weights`` (..., K), such as a softmax.

        Raw codes are mixed; an l2-normalised quantizer brings the mixture to unit length.
        """
        with full_float32(weights.device.type):
            return self._normalised(weights.float() @ self.codebook.float())

    def extra_repr(self) -> str:
        """Sizes and the options that differ between models."""
        return (
            f"{self.codebook_size}, {self.code_dim}, l2_normalize={self.l2_normalize}, "
            f"update={self.update!r}"
        )

    def _quantize(self, raw: Tensor, dtype: torch.dtype) -> Quantized:
        z = self._normalised(raw)
        flat = z.detach().reshape(-1, self.code_dim)
        learns = self._learns()
        bypass = self.bypass or (self.training and self._steps_left() > 0)
        if learns and not bypass:
            self._start_codebook(flat)
            self._restart(flat)
            if self.official_double_ema:
                self._average(flat, self._codes(z).reshape(-1))
        codes = self._codes(z)
        code = self._rows(codes)
        statistics = codebook_statistics(codes, self.codebook_size)
        if self.average is not None:
            if self.training:
                self.average.update(statistics["codebook/counts"][None])
            statistics["codebook/average_usage"] = self.average.usage(codes.numel())[0]
        losses = self._losses(z, code, weight=0.0 if bypass else 1.0)
        if bypass:
            latents = z
        else:
            latents = z + (code - z).detach() if self.straight_through else code
        if learns and not bypass:
            self._learn(raw, flat, codes, statistics["codebook/counts"])
        if self.training and self.quantize_after_steps:
            self.training_forwards += 1
        search = CodeSearch(z.detach(), 0, range(codes.shape[1:].numel()))
        return Quantized(
            latents.to(dtype), codes, losses, statistics,
            searches=() if bypass else (search,), straight=None if self.straight_through else z,
        )

    def _losses(self, z: Tensor, code: Tensor, weight: float) -> dict[str, Tensor]:
        # With weight 0 (bypass) both stay tied to codebook and encoder: DistributedDataParallel
        # needs every parameter in the graph of every step.
        commitment = weight * self.commitment_weight * F.mse_loss(z, code.detach())
        if self.update == "ema":
            return {"quantizer/commitment": commitment}
        codebook = weight * F.mse_loss(code, z.detach())
        return {"quantizer/codebook": codebook, "quantizer/commitment": commitment}

    def _normalised(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.l2_normalize else x

    def _codes(self, z: Tensor) -> Tensor:
        flat = z.reshape(-1, self.code_dim)
        return nearest_code(flat, self.vectors).view(z.shape[:-1])

    def _rows(self, codes: Tensor) -> Tensor:
        # Rows are normalised after the look-up: the graph then holds copies, and the codebook
        # may be changed in place before the backward pass.
        with full_float32(codes.device.type):
            return self._normalised(F.embedding(codes, self.codebook).float())

    def _learns(self) -> bool:
        allowed = self.update == "ema" or self.codebook.requires_grad
        return self.training and allowed and not self.frozen

    def _steps_left(self) -> int:
        if not self.quantize_after_steps:
            return 0
        return self.quantize_after_steps - int(self.training_forwards)

    @torch.no_grad()
    def _start_codebook(self, flat: Tensor) -> None:
        if not self.kmeans_start or bool(self.initialised):
            return
        centres = kmeans(
            flat, self.codebook_size, spherical=self.l2_normalize,
            iterations=self.kmeans_iterations,
        )
        self._place(torch.arange(self.codebook_size, device=flat.device), centres)
        self.initialised.fill_(1)

    @torch.no_grad()
    def _restart(self, flat: Tensor) -> None:
        if not self.dead_code_every:
            return
        # Only forwards that counted codes count here: after a long bypass every code would
        # otherwise pass for dead.
        done = int(self.learned_forwards)
        if done == 0 or done % self.dead_code_every:
            return
        moved = restart_dead_codes(self.codebook, self.recent_counts, flat, seed=done)
        self._place(moved, self.codebook[moved])
        self.recent_counts.zero_()

    @torch.no_grad()
    def _learn(self, raw: Tensor, flat: Tensor, codes: Tensor, counts: Tensor) -> None:
        if self.dead_code_every:
            self.recent_counts += counts
            self.learned_forwards += 1
        if self.update == "clustering":
            online_clustering(
                self.codebook, self.usage_ema, counts, raw.detach().reshape(-1, self.code_dim),
                decay=self.ema_decay, l2_normalize=self.l2_normalize,
            )
        if self.update == "ema":
            self._average(flat, codes.reshape(-1), counts)

    @torch.no_grad()
    def _average(self, flat: Tensor, codes: Tensor, counts: Tensor | None = None) -> None:
        """Move the averages and the codes by a batch; ``counts`` are over all processes."""
        alone = self.official_rank0_ema
        if counts is None or alone:
            counts = torch.bincount(codes, minlength=self.codebook_size)
            counts = counts if alone else sum_over_processes(counts)
        update_ema_codebook(
            self.codebook, self.usage_ema, self.sum_ema, counts, codes, flat,
            decay=self.ema_decay, smoothing=self.ema_smoothing, joined=not alone,
        )
        if alone:
            for state in (self.codebook, self.usage_ema, self.sum_ema):
                from_first_process(state)

    def _place(self, which: Tensor, vectors: Tensor) -> None:
        """Move codes ``which`` (M,) to ``vectors`` (M, D), forgetting what they averaged before."""
        self.codebook[which] = vectors.to(self.codebook.dtype)
        if self.update == "ema":
            self.usage_ema[which] = 1.0
            self.sum_ema[which] = vectors.to(self.sum_ema.dtype)

    def _check_width(self, z: Tensor) -> None:
        if z.ndim == 0 or z.shape[-1] != self.code_dim:
            raise ConfigError(
                f"latents of shape {tuple(z.shape)} met codes of width {self.code_dim}; "
                f"legal is (..., {self.code_dim}): move the channels to the last axis"
            )


def _check_options(codebook_size: int, code_dim: int, update: str, ema_decay: float) -> None:
    if codebook_size < 1 or code_dim < 1:
        raise ConfigError(
            f"codebook_size {codebook_size} and code_dim {code_dim} came in; "
            "both have to be at least 1"
        )
    if update not in UPDATES:
        legal = ", ".join(UPDATES) + nearest(update, UPDATES)
        raise ConfigError(f"update '{update}' is unknown; legal are {legal}")
    if not 0 < ema_decay < 1:
        raise ConfigError(f"ema_decay {ema_decay} is out of range; give one between 0 and 1")


def _check_counts(dead_code_every: int, quantize_after_steps: int) -> None:
    if dead_code_every < 0 or quantize_after_steps < 0:
        raise ConfigError(
            f"dead_code_every {dead_code_every} and quantize_after_steps {quantize_after_steps} "
            "came in; both count training forwards and have to be at least 0"
        )


def _check_start(ema_smoothing: float, kmeans_iterations: int) -> None:
    if ema_smoothing < 0 or kmeans_iterations < 0:
        raise ConfigError(
            f"ema_smoothing {ema_smoothing} and kmeans_iterations {kmeans_iterations} came in; "
            "both have to be at least 0"
        )
