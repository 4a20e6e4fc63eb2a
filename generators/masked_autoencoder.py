"""MAR's masked autoencoder: an encoder of what is there, a decoder of what is to come.

    values (R, v, C) of visible positions --linear--> + place --norm-+
    condition, U times ------------------------------ + place --norm-+--> encoder --norm, linear-+
                                                                                                 |
    features (R, L, W) <-- + place <-- decoder, norm <-- + place <-- mask token elsewhere -------+

Both see in all directions.  The condition fills a buffer of U positions, so that the encoder has
something to work with where all else is masked.  Li et al. 2024, arXiv 2406.11838; He et al. 2021,
arXiv 2111.06377.  Letters: R rows, L positions, v of them visible, C values of a position, U buffer
positions, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from generators.full_attention import FullAttention
from tok_core.errors import ConfigError
from tok_core.fast_linear import Linear


@dataclass(frozen=True, kw_only=True)
class TrunkSizes:
    """Sizes of the encoder or of the decoder.

    Raises:
        ConfigError: no whole numbers, or heads that do not divide the width.
    """

    width: int
    layers: int
    heads: int

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}; give a whole number of at least 1.")
        if self.width % self.heads:
            raise ConfigError(
                f"width {self.width} is no multiple of {self.heads} heads; choose others."
            )


class MaskedBlock(nn.Module):
    """One pre-norm block with dropout of attention weights, branches and the inside of the MLP.

    Args:
        width: W. heads, hidden: sizes. eps: of both norms.
        dropout: of branches and MLP. attention_dropout: of attention weights.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, eps: float = 1e-6, dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.attention = FullAttention(width, heads, dropout=attention_dropout)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, P, W) to (R, P, W)."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        inner = self.dropout(nn.functional.gelu(self.up(self.mlp_norm(x))))
        return x + self.dropout(self.down(inner))


class MaskedAutoencoder(nn.Module):
    """Values of visible positions to features of all.

    Args:
        length: L. values: C. buffer: U.
        encoder, decoder: sizes; the decoder's width is that of the features.
        mlp_ratio: hidden width of the MLPs over W. eps: of all norms.
        dropout, attention_dropout: see `MaskedBlock`.

    Example:
        >>> sizes = TrunkSizes(width=32, layers=1, heads=2)
        >>> network = MaskedAutoencoder(6, 3, buffer=2, encoder=sizes, decoder=sizes)
        >>> values, masked = torch.zeros(1, 6, 3), torch.tensor([[True] * 4 + [False] * 2])
        >>> network(values, masked, torch.zeros(1, 1, 32)).shape
        torch.Size([1, 6, 32])
    """

    def __init__(
        self, length: int, values: int, *, buffer: int, encoder: TrunkSizes, decoder: TrunkSizes,
        mlp_ratio: float = 4.0, eps: float = 1e-6, dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()

        def blocks(sizes: TrunkSizes) -> nn.ModuleList:
            return nn.ModuleList(
                MaskedBlock(
                    sizes.width, sizes.heads, int(sizes.width * mlp_ratio), eps=eps,
                    dropout=dropout, attention_dropout=attention_dropout,
                )
                for _ in range(sizes.layers)
            )  # fmt: skip

        self.buffer = buffer
        self.value_in = Linear(values, encoder.width)
        self.value_norm = nn.LayerNorm(encoder.width, eps=eps)
        self.encoder_places = nn.Parameter(torch.empty(buffer + length, encoder.width))
        self.encoder = blocks(encoder)
        self.encoder_norm = nn.LayerNorm(encoder.width, eps=eps)
        self.decoder_in = Linear(encoder.width, decoder.width)
        self.mask_token = nn.Parameter(torch.empty(decoder.width))
        self.decoder_places = nn.Parameter(torch.empty(buffer + length, decoder.width))
        self.decoder = blocks(decoder)
        self.decoder_norm = nn.LayerNorm(decoder.width, eps=eps)
        self.feature_places = nn.Parameter(torch.empty(length, decoder.width))
        # diffusers' enable_gradient_checkpointing() finds and sets this attribute.
        self.gradient_checkpointing = False

    @torch.no_grad()
    def reset(self) -> None:
        """Draw weights anew as the released code does: Xavier, tables and mask token 0.02."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
        for table in (self.encoder_places, self.decoder_places, self.feature_places):
            nn.init.normal_(table, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, values: Tensor, masked: Tensor, condition: Tensor) -> Tensor:
        """Return features (R, L, W).

        Args:
            values: (R, L, C), anything where masked.
            masked: bool (R, L), the same number of True in every row.
            condition: (R, 1, width of the encoder).
        """
        visible = visible_places(masked)
        return self.decoded(self.encoded(values, visible, condition), visible)

    def encoded(self, values: Tensor, visible: Tensor, condition: Tensor) -> Tensor:
        """Return (R, U + v, width of the encoder): the buffer, then visible positions (R, v)."""
        shown = values.gather(1, _rows(visible, values))
        x = self.value_in(shown.to(self.value_in.weight.dtype))
        x = x + self.encoder_places[self.buffer :][visible]
        first = condition.to(x.dtype) + self.encoder_places[: self.buffer]
        x = self.value_norm(torch.cat((first, x), dim=1))
        return self.encoder_norm(self._run(self.encoder, x))

    def decoded(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return features (R, L, W) of what `encoded` returned."""
        x = self.decoder_in(x)
        length = self.feature_places.shape[0]
        everywhere = self.mask_token.to(x.dtype).expand(len(x), length, -1)
        known = x[:, self.buffer :]
        placed = everywhere.scatter(1, _rows(visible, known), known)
        x = torch.cat((x[:, : self.buffer], placed), dim=1) + self.decoder_places
        x = self.decoder_norm(self._run(self.decoder, x))
        return x[:, self.buffer :] + self.feature_places

    def _run(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        for block in blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


def visible_places(masked: Tensor) -> Tensor:
    """Return the positions (R, v) that are not masked, in sequence order, from bool (R, L)."""
    count = int((~masked[0]).sum()) if len(masked) else 0
    return masked.int().argsort(dim=1, stable=True)[:, :count]


def _rows(places: Tensor, like: Tensor) -> Tensor:
    """Return positions (R, v) as an index of ``like`` (R, ..., C) along its second axis."""
    return places[..., None].expand(-1, -1, like.shape[-1])
