"""Product quantizer: P quantizers side by side, each for a group of the latent's channels.

    z ──▶ z_1 ──quantizer 1──▶ q_1 ─┐
      ──▶ z_2 ──quantizer 2──▶ q_2 ─┼─concatenate──▶ latents        codes (B, P, ...)
      ──▶ ...                       ┘

The branches know nothing of each other; a position yields P codes at once.  One dropout draw serves
them all.  Branches are `tok_core.vector_quantizer` (VP), `tok_core.multi_scale_quantizer` (MSVR)
or `tok_core.binary_spherical` (MSBR).

Li et al. 2024, "ImageFolder", arXiv 2410.01756, and "XQ-GAN", arXiv 2412.01762.  Letters: B batch,
P branches, D channels of a branch, h w grid, F frames, S scales, K codes, N tokens of all scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.branch_usage import branch_statistics
from tok_core.code_search import CodeSearch
from tok_core.codebook import Codebook
from tok_core.errors import ConfigError, TokenError
from tok_core.full_float32 import full_float32
from tok_core.phi_residual import PhiResidual
from tok_core.quantizer_dropout import Dropped, QuantizerDropout
from tok_core.scales import Scales, Size
from tok_core.vector_quantizer import Quantized, VectorQuantizer

Branch = VectorQuantizer | PhiResidual


class ProductQuantizer(nn.Module):
    """P independent quantizers over latents (B, P, D, h, w) or (B, P, F, D).

    Args:
        branches: the quantizers, all of one width D and over the same scales; sizes of their
            codebooks may differ.
        dropout: drawn once for all branches in every training forward; None keeps all scales. With
            a single scale nothing is dropped, but the chosen items are reported all the same.
        decorrelation: weight of the mean cosine between the mean latents of the first and the last
            branch; 0 leaves the term out.

    Attributes:
        branches: the quantizers. scales: their native list, None for quantizers of one grid.

    Raises:
        ConfigError: no branches, branches that do not go together, a branch with a dropout of its
            own, or a dropout that begins beyond the last scale.

    Source: arXiv 2410.01756, section 3.2; arXiv 2412.01762.

    Example:
        >>> branches = [MultiScaleQuantizer(4096, 32, [1, 2, 4], cosine=True) for _ in range(2)]
        >>> out = ProductQuantizer(branches)(torch.randn(3, 2, 32, 4, 4))
        >>> out.codes.shape, out.latents.shape
        (torch.Size([3, 2, 21]), torch.Size([3, 64, 4, 4]))
    """

    def __init__(
        self,
        branches: Sequence[nn.Module],
        *,
        dropout: QuantizerDropout | None = None,
        decorrelation: float = 0.0,
    ) -> None:
        super().__init__()
        lists = [_scales(branch) for branch in branches]
        _check_branches(branches, lists)
        if not decorrelation >= 0 or (decorrelation and len(branches) < 2):
            raise ConfigError(
                f"decorrelation {decorrelation} of {len(branches)} branches came in; "
                "give 0, or more with at least 2 branches."
            )
        self.scales = lists[0]
        if dropout is not None:
            dropout.check(self.num_scales)
        self.branches = nn.ModuleList(branches)
        self.dropout, self.decorrelation = dropout, decorrelation

    # -- what it is ----------------------------------------------------------------------------

    @property
    def num_scales(self) -> int:
        """S of the native grid."""
        return 1 if self.scales is None else len(self.scales)

    @property
    def code_dim(self) -> int:
        """P D, the channels of the latents that come out."""
        return sum(branch.code_dim for branch in self)

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """K of every branch, as a `tok_core.token_spec.TokenSpec` takes them."""
        return tuple(branch.codebook_size for branch in self)

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """The table of every branch as its assignment sees it."""
        return tuple(Codebook(branch.vectors, _metric(branch)) for branch in self)

    def __iter__(self) -> Iterator[Branch]:
        """Yield the branches."""
        for branch in self.branches:
            assert isinstance(branch, Branch)
            yield branch

    def __len__(self) -> int:
        """Return P."""
        return len(self.branches)

    # -- latents to tokens and back ------------------------------------------------------------

    def forward(self, z: Tensor, *, dropped: Dropped | None = None) -> Quantized:
        """Quantize every branch and, in training mode, keep the codebooks alive.

        Args:
            z: (B, P, D, h, w) or (B, P, F, D).
            dropped: which items keep how many scales; None draws it in training (``dropout``).

        Returns:
            latents (B, P D, h, w) or (B, F, P D); codes int64 (B, P, N) over several scales, else
            (B, P, h, w) or (B, P, F); losses as means over branches, and
            ``quantizer/decorrelation`` if it has a weight; statistics: of every branch under names
            like ``codebook/usage/branch0`` and ``codebook/perplexity/branch0/scale3``, with
            ``codebook/dead_codes/...`` (codes that the batch never chose) beside them, means over
            branches under the plain names, and ``codebook/counts`` (P, K) or (P, S, K) where the
            codebooks have one size; the items that were chosen for dropout.
        """
        parts = self._parts(z)
        if dropped is None and self.training and self.dropout is not None:
            dropped = self.dropout.draw(len(z), self.num_scales)
        found = [
            _quantize(branch, part, dropped) for branch, part in zip(self, parts, strict=True)
        ]
        latents = [one.latents for one in found]
        losses = {
            name: torch.stack([one.losses[name] for one in found]).mean()
            for name in found[0].losses
        }
        if self.decorrelation:
            likeness = _likeness(latents[0], latents[-1])
            losses["quantizer/decorrelation"] = self.decorrelation * likeness
        items = None if dropped is None else dropped.items.to(z.device)
        return Quantized(
            _joined(latents), torch.stack([one.codes for one in found], 1), losses,
            branch_statistics([one.statistics for one in found]),
            searches=_searches(found), straight=_straight(found), dropped=items,
        )

    def encode(self, z: Tensor) -> Tensor:
        """Return the codes of z as `forward` does; no state changes, no collective."""
        pairs = zip(self, self._parts(z), strict=True)
        return torch.stack([_encode(branch, part) for branch, part in pairs], 1)

    def lookup(
        self, codes: Tensor, upto: int | None = None, *, size: int | Size | None = None
    ) -> Tensor:
        """Return the latents (B, P D, h, w) or (B, F, P D) of codes, float32.

        Args:
            codes: int64 (B, P, n) of whole scales, else (B, P, h, w) or (B, P, F).
            upto: use the first so many scales only.
            size: (h, w) or F of the latent for codes over several scales; None is the native grid.

        Raises:
            TokenError: another number of branches, codes out of range or that end inside a scale,
                ``upto`` out of range.
        """
        return _joined([
            _lookup(branch, codes[:, i], upto, size) for i, branch in self._numbered(codes)
        ])

    def cumulative(self, codes: Tensor, *, size: Size | None = None) -> Iterator[Tensor]:
        """Yield the latents (B, P D, h, w) after every scale of codes (B, P, n), coarse to fine."""
        if self.num_scales == 1:
            yield self.lookup(codes, size=size)
            return
        sums = [branch.cumulative(part, size=size) for branch, part in self.scaled(codes)]
        for parts in zip(*sums, strict=True):
            yield _joined(parts)

    def scaled(self, codes: Tensor) -> list[tuple[PhiResidual, Tensor]]:
        """Return every branch with its own codes (B, n) of codes (B, P, n) over several scales.

        Raises:
            TokenError: a quantizer of one scale, or another number of branches.
        """
        if self.num_scales == 1:
            raise TokenError("this quantizer has one scale; there is none to come after another.")
        return [
            (branch, codes[:, i])
            for i, branch in self._numbered(codes) if isinstance(branch, PhiResidual)
        ]

    # -- parts ---------------------------------------------------------------------------------

    def _parts(self, z: Tensor) -> list[Tensor]:
        width = self.code_dim // len(self)
        channels = {4: -1, 5: 2}.get(z.ndim)
        if channels is None or z.shape[1] != len(self) or z.shape[channels] != width:
            raise ConfigError(
                f"latents of shape {tuple(z.shape)} met {len(self)} branches of width {width}; "
                f"legal are (batch, {len(self)}, {width}, rows, columns) and "
                f"(batch, {len(self)}, frames, {width})."
            )
        return list(z.unbind(1))

    def _numbered(self, codes: Tensor) -> list[tuple[int, Branch]]:
        several = self.num_scales > 1
        if codes.ndim not in ((3,) if several else (3, 4)) or codes.shape[1] != len(self):
            legal = "tokens" if several else "rows, columns) or (batch, branches, frames"
            raise TokenError(
                f"codes of shape {tuple(codes.shape)} came in; this quantizer takes "
                f"(batch, branches, {legal}) with {len(self)} branches."
            )
        return list(enumerate(self))


# -- one branch of either kind ---------------------------------------------------------------------


def _quantize(branch: Branch, z: Tensor, dropped: Dropped | None) -> Quantized:
    """Quantize z (B, D, h, w) or (B, F, D): latents like z, codes with the axes of `forward`."""
    if isinstance(branch, PhiResidual):
        out: Quantized = branch(z, dropped=dropped)
        return out._replace(codes=_unfolded(branch, out.codes, z))
    grid = z.ndim == 4
    out = branch(z.movedim(1, -1) if grid else z)
    if not grid:
        return out
    straight = None if out.straight is None else out.straight.movedim(-1, 1)
    return out._replace(latents=out.latents.movedim(-1, 1), straight=straight)


def _encode(branch: Branch, z: Tensor) -> Tensor:
    if isinstance(branch, PhiResidual):
        return _unfolded(branch, branch.encode(z), z)
    return branch.encode(z.movedim(1, -1) if z.ndim == 4 else z)


def _unfolded(branch: PhiResidual, codes: Tensor, z: Tensor) -> Tensor:
    """Give codes (B, N) of a quantizer of one grid the axes of that grid."""
    several = branch.scales is not None and len(branch.scales) > 1
    return codes if several or z.ndim == 3 else codes.unflatten(1, z.shape[-2:])


def _lookup(
    branch: Branch, codes: Tensor, upto: int | None, size: int | Size | None
) -> Tensor:
    grid = codes.ndim == 3
    if isinstance(branch, PhiResidual):
        if grid:
            size = (codes.shape[1], codes.shape[2])
        elif branch.scales is None or len(branch.scales) == 1:
            size = codes.shape[1]
        return branch.lookup(codes.flatten(1), upto, size=size)
    if upto not in (None, 1):
        raise TokenError(f"upto is {upto}; this quantizer has one scale, so leave it out.")
    rows = branch.lookup(codes)
    return rows.movedim(-1, 1) if grid else rows


def _searches(found: Sequence[Quantized]) -> tuple[CodeSearch, ...] | None:
    """Return the searches of all branches, whose codes stand one after the other in an item's."""
    joined: list[CodeSearch] = []
    start = 0
    for branch, one in enumerate(found):
        if one.searches is None:
            return None
        joined += [search.moved(start=start, factor=branch) for search in one.searches]
        start += one.codes.shape[1:].numel()
    return tuple(joined)


def _straight(found: Sequence[Quantized]) -> Tensor | None:
    """Return where gradients of replaced codes go, for branches that do not say it by latents."""
    if all(one.straight is None for one in found):
        return None
    return _joined([one.latents if one.straight is None else one.straight for one in found])


def _joined(latents: Sequence[Tensor]) -> Tensor:
    """Concatenate (B, D, h, w) or (B, F, D) on the channels."""
    return torch.cat(list(latents), 1 if latents[0].ndim == 4 else -1)


def _likeness(first: Tensor, last: Tensor) -> Tensor:
    """Return the mean cosine between the mean latents of two branches."""
    with full_float32(first.device.type):
        means = [
            (q.flatten(2).mean(2) if q.ndim == 4 else q.mean(1)) for q in (first, last)
        ]
        return F.cosine_similarity(means[0].float(), means[1].float(), dim=-1).mean()


def _metric(branch: Branch) -> str:
    if isinstance(branch, VectorQuantizer):
        return "cosine" if branch.l2_normalize else "l2"
    return str(branch.metric)


def _scales(branch: nn.Module) -> Scales | None:
    scales = branch.scales if isinstance(branch, PhiResidual) else None
    return None if scales is None or len(scales) == 1 else scales


def _check_branches(branches: Sequence[nn.Module], lists: Sequence[Scales | None]) -> None:
    if not branches:
        raise ConfigError("a product quantizer of 0 branches came in; give at least 1.")
    widths = set()
    for i, branch in enumerate(branches):
        if not isinstance(branch, Branch):
            raise ConfigError(
                f"branch {i} is a {type(branch).__name__}; a branch is a VectorQuantizer, a "
                "MultiScaleQuantizer or a BinarySphericalQuantizer."
            )
        if isinstance(branch, PhiResidual) and branch.dropout is not None:
            raise ConfigError(
                f"branch {i} has a dropout of its own; give it to the product quantizer, "
                "which draws once for all branches."
            )
        widths.add(branch.code_dim)
    if len(widths) > 1:
        raise ConfigError(
            f"the branches have code_dim {sorted(widths)}; give all the same number of channels."
        )
    if any(scales != lists[0] for scales in lists):
        sizes = [None if scales is None else scales.sizes for scales in lists]
        raise ConfigError(
            f"the branches have scales {sizes}; give all the same list, or none for one grid."
        )
