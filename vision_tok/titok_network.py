"""What every model of the TiTok family shares: the networks, the size check, the pixel stage.

Letters: B batch, S image side, G grid, N tokens, C token size, K proxy codes, Z their width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tok_core.contract import Autoencoder
from tok_core.errors import MediaError, TokenError, WeightsError
from tok_core.official_source import OfficialSource
from tok_core.tail_drop import prefix_mask
from vision_tok.hybrid_decoder import HybridDecoder
from vision_tok.hybrid_encoder import HybridEncoder
from vision_tok.maskgit_networks import MaskGitDecoder
from vision_tok.titok_config import PixelDecoderOptions, TiTokConfig, spelled_out
from vision_tok.titok_decoder import TiTokDecoder
from vision_tok.titok_encoder import TiTokEncoder

if TYPE_CHECKING:
    from vision_tok.maskgit_vqgan import MaskGitVQGAN

PROXY_LOGITS = "proxy_logits"


class PixelStage(nn.Module):
    """Proxy-code logits to pixels: a softmax mixes code vectors, the teacher's decoder paints.

    Args:
        proxy_codebook_size: K.
        options: sizes of the decoder.
    """

    def __init__(self, proxy_codebook_size: int, options: PixelDecoderOptions) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.empty(proxy_codebook_size, options.z_channels))
        nn.init.uniform_(self.codebook, -1 / proxy_codebook_size, 1 / proxy_codebook_size)
        self.decoder = MaskGitDecoder(
            options.hidden_channels, options.channel_mult, options.num_res_blocks,
            options.z_channels,
        )  # fmt: skip

    def mix(self, logits: Tensor) -> Tensor:
        """Return the soft code vectors (B, Z, G, G); no temperature, no argmax."""
        return (logits.movedim(1, -1).softmax(-1) @ self.codebook).movedim(-1, 1)

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits (B, K, G, G) to a picture in [-1, 1], not clamped."""
        return self.decoder(self.mix(logits)) * 2 - 1


class TiTokNetwork(OfficialSource, Autoencoder):
    """Encoder, decoder and pixel stage; what lies between them is the subclass's business."""

    _supports_gradient_checkpointing = True
    official_importer = "vision_tok.import_titok:import_titok"
    code_config: ClassVar[tuple[str, ...]] = (
        "encoder_size", "mlp_ratio", "layer_norm_eps", "num_tokens", "legacy_reshape", "stem",
        "latent_seed",
    )  # fmt: skip
    settings: TiTokConfig

    def build(self, config: TiTokConfig, out_channels: int) -> None:
        """Make the networks; nothing here reads a parameter, so it also runs on meta."""
        self.settings = config
        self.register_to_config(
            **{name: value for name, value in spelled_out(config).items() if name in self.config}
        )
        self.encoder: nn.Module
        self.decoder: nn.Module
        if config.hybrid:
            self.encoder, self.decoder = _hybrid(config, out_channels)
        else:
            width = config.encoder_size.width
            self.latent_tokens = nn.Parameter(torch.empty(config.num_tokens, width))
            nn.init.normal_(self.latent_tokens, std=width**-0.5)
            self.encoder = TiTokEncoder(config, out_channels)
            self.decoder = TiTokDecoder(config)
        stage = config.pixel_decoder
        self.pixel_stage = None if stage is None else PixelStage(config.proxy_codebook_size, stage)
        # In a tuple, so that the frozen teacher is neither saved nor trained with the model.
        self._teacher: tuple[MaskGitVQGAN, ...] = ()

    def encode_latents(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, S, S) in [-1, 1] to what the encoder puts out, (B, N, C or 2 C).

        Raises:
            MediaError: pictures of another size.
        """
        size = self.settings.image_size
        if x.dim() != 4 or tuple(x.shape[1:]) != (3, size, size):
            raise MediaError(
                f"pictures of shape {tuple(x.shape)} came in; this network sees exactly "
                f"(batch, 3, {size}, {size}), so resize, crop or tile them first."
            )
        if self.settings.hybrid:
            return self.encoder(x)
        return self.encoder(x, self.latent_tokens)

    def paint(
        self, z: Tensor, keep: Tensor | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Decode latents (B, k, C) for training.

        Returns:
            The picture in [-1, 1], not clamped (None at stage 1), and the proxy-code logits
            (B, K, G, G) (None without the legacy head).
        """
        if self.settings.hybrid:
            if condition is not None:
                raise TokenError("this decoder takes no condition; leave it out.")
            return self.decoder(z, keep), None
        out = self.decoder(z, keep, condition)
        if not self.settings.proxy:
            return out, None
        return (None if self.pixel_stage is None else self.pixel_stage(out)), out

    def picture(
        self, z: Tensor, keep: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Decode latents (B, k, C) to a picture, not clamped; stage 1 asks its teacher.

        Raises:
            WeightsError: a stage-1 checkpoint without a teacher.
        """
        picture, logits = self.paint(z, keep, condition)
        if picture is not None:
            return picture
        if not self._teacher:
            raise WeightsError(
                "this is a stage-1 checkpoint, which predicts proxy codes and no pixels; call "
                "attach_teacher with a MaskGitVQGAN, or train stage 2 first."
            )
        assert logits is not None
        teacher = self._teacher[0].to(logits.device)
        return teacher.decode(logits.argmax(1)).to(z.dtype)

    def attach_teacher(self, teacher: MaskGitVQGAN) -> None:
        """Let a stage-1 checkpoint decode through its frozen teacher; None of it is saved.

        Raises:
            WeightsError: a teacher with another number of codes or another stride.
        """
        codes, factor = teacher.quantizer.codebook_size, teacher.factor
        ours = (self.settings.proxy_codebook_size, self.settings.patch_size)
        if not self.settings.proxy or (codes, factor) != ours:
            raise WeightsError(
                f"this model predicts {ours[0]} proxy codes with the "
                f"'{self.settings.head}' head, {ours[1]} pixels per cell, but the teacher has "
                f"{codes} codes and {factor} pixels; give the teacher it was trained with."
            )
        self._teacher = (teacher.requires_grad_(False).eval(),)


def keep_mask(lengths: Tensor, device: torch.device) -> tuple[int, Tensor | None]:
    """Return the longest length and which of that many positions each item keeps, None for all."""
    longest, shortest = int(lengths.max()), int(lengths.min())
    if longest == shortest:
        return longest, None
    return longest, prefix_mask(lengths.to(device), longest)


def _hybrid(config: TiTokConfig, out_channels: int) -> tuple[nn.Module, nn.Module]:
    shared: dict[str, Any] = {
        "image_size": config.image_size, "channels": config.conv_channels,
        "num_tokens": config.num_tokens, "mlp_ratio": config.mlp_ratio,
        "eps": config.layer_norm_eps,
    }  # fmt: skip
    encoder, decoder = config.encoder_size, config.decoder_size
    return (
        HybridEncoder(
            width=encoder.width, layers=encoder.layers, heads=encoder.num_heads,
            out_channels=out_channels, **shared,
        ),
        HybridDecoder(
            width=decoder.width, layers=decoder.layers, heads=decoder.num_heads,
            token_size=config.token_size, **shared,
        ),
    )  # fmt: skip
