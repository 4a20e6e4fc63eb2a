"""FSQPatches: every patch of a picture becomes one code of finite scalar quantization.

    picture --encoder--> --tanh--> b (B, D, h, w) --quantizer--> codes (B, h, w)
    codes --lookup--> (B, D, h, w) --decoder--> picture

Letters: B pictures, H W pixels, h w patches, D channels of a code, P pixels per patch side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from fsq_patches.finite_scalar import FiniteScalarQuantizer
from tok_core.codebook import Codebook
from tok_core.contract import Tokenizer, Tokens, TrainingOutput, as_tokens
from tok_core.errors import ConfigError, MediaError, TokenError
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training_perturbation import decoder_latents
from vision_tok.adaptive_weight import LAST_LAYER


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The checked options of `FSQPatches`, which explains them."""

    levels: tuple[int, ...]
    patch_size: int
    width: int
    blocks: int
    image_size: int

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ConfigError(f"levels are {self.levels}; give one or more, each at least 2.")
        if min(self.patch_size, self.width, self.image_size) < 1 or self.blocks < 0:
            raise ConfigError("patch_size, width and image_size have to be 1 or more, blocks 0.")
        if self.width % 8:
            raise ConfigError(f"width is {self.width}; its norms need a multiple of 8.")


class FSQPatches(Tokenizer):
    """Patches to codes and back; pictures of any size, padded to whole patches inside.

    Args:
        levels: L of every channel; their product is the number of codes.
        patch_size: P. width: channels inside. blocks: residual blocks of either side.
        image_size: side that commands prepare pictures for, in pixels.

    Raises:
        ConfigError: an option out of range.

    Example:
        >>> FSQPatches().encode(torch.rand(1, 3, 32, 32) * 2 - 1).codes.shape
        torch.Size([1, 8, 8])
    """

    code_prefixes = ("encoder.",)  # the parameters that decide codes; all else is the decoder
    code_config = ("levels",)  # [5, 8] and [8, 5] have the same tensors and other codes

    @register_to_config
    def __init__(
        self,
        levels: Sequence[int] = (8, 5, 5, 5),
        patch_size: int = 4,
        width: int = 64,
        blocks: int = 2,
        image_size: int = 32,
    ) -> None:
        self.settings = Settings(
            levels=tuple(levels), patch_size=patch_size, width=width, blocks=blocks,
            image_size=image_size,
        )  # fmt: skip
        super().__init__()
        channels, pixels = len(self.settings.levels), 3 * patch_size**2
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, patch_size, patch_size),
            *(Residual(width) for _ in range(blocks)),
            nn.Conv2d(width, channels, 1),
        )
        self.quantizer = FiniteScalarQuantizer(self.settings.levels)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            *(Residual(width) for _ in range(blocks)),
            nn.Conv2d(width, pixels, 1),
            nn.PixelShuffle(patch_size),
        )

    @property
    def spec(self) -> TokenSpec:
        """One code per patch, on a grid that follows the picture."""
        side = self.settings.image_size
        return TokenSpec(
            modality="image", axes=(Axis(name="row"), Axis(name="column")),
            vocabulary=(self.quantizer.codebook_size,), grid=self._grid((side, side)),
            image_size=(side, side),
        )  # fmt: skip

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """The one lattice."""
        return (Codebook(self.quantizer.vectors, "l2"),)

    def latents(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, H, W) in [-1, 1] to bounded latents (B, D, h, w)."""
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 1:
            raise MediaError(f"pictures of shape {tuple(x.shape)} came in; give (B, 3, H, W).")
        rows, columns = (-side % self.settings.patch_size for side in x.shape[2:])
        x = F.pad(x, (0, columns, 0, rows), mode="replicate")
        # The bound is part of the latents: what is compared with the lattice, in float32.
        return self.encoder(x.to(self.dtype)).float().tanh()

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map latents (B, D, h, w) to pictures (B, 3, P h, P w) in [-1, 1]."""
        if condition is not None:
            raise TokenError("this decoder takes no condition; leave it out.")
        return self.decoder(z.to(self.dtype)).clamp(-1, 1)

    @torch.no_grad()
    def encode(
        self, x: Tensor, *, lengths: Tensor | None = None, num_tokens: int | None = None
    ) -> Tokens:
        """Turn pictures (B, 3, H, W) in [-1, 1] into codes (B, h, w) and their size."""
        if lengths is not None or num_tokens is not None:
            raise TokenError("every patch is coded; leave lengths and num_tokens out.")
        codes = self.quantizer.encode(self.latents(x).movedim(1, -1))
        return Tokens(codes, extent=torch.tensor(x.shape[2:], device=x.device).expand(len(x), 2))

    @torch.no_grad()
    def decode(self, tokens: Tokens | Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Turn tokens into pictures of the size that went in, bare codes into whole patches."""
        tokens = as_tokens(tokens)
        picture = self.decode_latents(self.embed(tokens), condition=condition)
        if tokens.extent is None or not len(tokens.extent):
            return picture
        sizes = {(int(height), int(width)) for height, width in tokens.extent}
        height, width = sizes.pop()
        if sizes or self._grid((height, width)) != tokens.codes.shape[1:]:
            raise TokenError("the sizes differ, or do not belong to these codes; drop the extent.")
        return picture[..., :height, :width]

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the lattice points (B, D, h, w) of codes."""
        tokens = as_tokens(tokens)
        if stream is not None or upto not in (None, 1) or tokens.lengths is not None:
            raise TokenError("there is one stream of whole grids; leave stream, upto, lengths out.")
        self.spec.check(tokens.codes)
        return self._lookup(tokens.codes)

    def forward(self, x: Tensor, *, tokens: Tokens | None = None) -> TrainingOutput:
        """Reconstruct for training, not clamped; with tokens given the encoder is skipped."""
        statistics: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if tokens is None:
            made = self.quantizer(self.latents(x).movedim(1, -1))
            made = made._replace(latents=made.latents.movedim(-1, 1))
            # The one line that latent perturbation needs.
            z, statistics, features = decoder_latents(self, made, self._lookup)
            tokens = Tokens(made.codes)
        else:
            z = self.embed(tokens)
        picture = self.decoder(z.to(self.dtype))[..., : x.shape[2], : x.shape[3]]
        if self.training:  # for objective.adaptive_weight
            features[LAST_LAYER] = self.decoder[-2].weight
        return TrainingOutput(picture, tokens, {}, statistics, features=features)

    def _lookup(self, codes: Tensor) -> Tensor:
        return self.quantizer.lookup(codes).movedim(-1, 1)

    def _grid(self, size: Sequence[int]) -> tuple[int, int]:
        return -(-size[0] // self.settings.patch_size), -(-size[1] // self.settings.patch_size)


class Residual(nn.Module):
    """x + conv(silu(norm(x))), two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        return x + self.branch(x)
