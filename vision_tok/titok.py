"""TiTok: a picture as N tokens without a grid.

    image --encoder--> z (B, N, C) --quantizer--> codes (B, N) --decoder--> image

Yu et al., "An Image is Worth 32 Tokens", arXiv 2406.07550; text-aware form: Kim et al.,
arXiv 2501.07730.  Letters: B batch, S image side, N tokens, C token size, K codes, G grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from tok_core.codebook import Codebook
from tok_core.contract import Tokenizer, Tokens, TrainingOutput, as_tokens
from tok_core.errors import ConfigError, TokenError
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training_perturbation import decoder_latents
from tok_core.vector_quantizer import VectorQuantizer
from vision_tok.titok_config import TiTokConfig, parse_config
from vision_tok.titok_network import PROXY_LOGITS, TiTokNetwork, keep_mask

if TYPE_CHECKING:
    from typing import Self

    from vision_tok.maskgit_vqgan import MaskGitVQGAN


class TiTok(TiTokNetwork, Tokenizer):
    """1D image tokenizer of a fixed length.

    Args:
        image_size, patch_size: pixels; the network has one square size.
        encoder_size, decoder_size: ``small``, ``base``, ``large``, or an object with width,
            layers and heads.
        num_tokens: N. token_size: C. codebook_size: K. l2_normalize: compare unit vectors.
        quantizer_options: how the codebook trains, see `QuantizerOptions`.
        head, legacy_reshape, proxy_codebook_size, pixel_decoder: see `TiTokConfig`; the published
            two-stage models have ``legacy``, True, 1024 and a pixel decoder, the others ``direct``.
        text: ``{}`` or sizes for a text-aware decoder; `decode` then needs a condition.
        stem, latent_seed, conv_channels: ``conv``, ``grid`` and channels give our hybrid network.
        tail_drop: for `OneDPiece` only.

    Raises:
        ConfigError: unknown options, illegal values, options that exclude each other.

    Example:
        >>> titok = TiTok.from_pretrained("yucornetto/tokenizer_titok_l32_imagenet")
        >>> titok.encode(images).codes.shape  # images (B, 3, 256, 256) in [-1, 1]
        torch.Size([4, 32])
    """

    _keep_in_fp32_modules = ["quantizer"]
    code_prefixes = ("encoder.", "latent_tokens", "quantizer.")
    code_config = (*TiTokNetwork.code_config, "l2_normalize")

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        patch_size: int = 16,
        encoder_size: str | dict[str, Any] = "small",
        decoder_size: str | dict[str, Any] = "small",
        mlp_ratio: float = 4.0,
        layer_norm_eps: float = 1e-5,
        num_tokens: int = 256,
        token_size: int = 12,
        codebook_size: int = 4096,
        l2_normalize: bool = True,
        quantizer_options: dict[str, Any] | None = None,
        legacy_reshape: bool = False,
        head: str = "direct",
        stem: str = "patch",
        latent_seed: str = "learned",
        conv_channels: list[int] | None = None,
        proxy_codebook_size: int = 1024,
        pixel_decoder: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        tail_drop: dict[str, Any] | None = None,
    ) -> None:
        config = parse_config(locals())
        super().__init__()
        self.check_options(config)
        self.build(config, out_channels=token_size)
        self.quantizer = VectorQuantizer(
            codebook_size, token_size, l2_normalize=l2_normalize, **vars(config.quantizer_options)
        )

    def check_options(self, config: TiTokConfig) -> None:
        """Refuse what only `OneDPiece` can do."""
        if config.tail_drop is not None:
            raise ConfigError("tail_drop needs class OneDPiece; TiTok decodes one length only.")

    # -- what it is ----------------------------------------------------------------------------

    @property
    def shortest(self) -> int:
        """Fewest tokens that can be decoded."""
        return self.settings.num_tokens

    @property
    def spec(self) -> TokenSpec:
        """N codes of one table, native size S x S."""
        tokens, size = self.settings.num_tokens, self.settings.image_size
        return TokenSpec(
            modality="image",
            axes=(Axis(name="token", size=tokens, minimum=self.shortest),),
            vocabulary=(self.quantizer.codebook_size,),
            condition=None if self.settings.text is None else "text",
            image_size=(size, size),
        )

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """The one table, normalised where assignment normalises."""
        metric = "cosine" if self.quantizer.l2_normalize else "l2"
        return (Codebook(self.quantizer.vectors, metric),)

    # -- signal to tokens and back -------------------------------------------------------------

    def latents(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, S, S) in [-1, 1] to latents (B, N, C) before quantization."""
        return self.encode_latents(x)

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map latents (B, k, C) of the first k tokens to pictures in [-1, 1]."""
        return self.picture(z, None, condition).clamp(-1, 1)

    @torch.no_grad()
    def encode(
        self, x: Tensor, *, lengths: Tensor | None = None, num_tokens: int | None = None
    ) -> Tokens:
        """Turn pictures (B, 3, S, S) in [-1, 1] into codes (B, N), or the first ``num_tokens``.

        Raises:
            TokenError: a budget this tokenizer cannot decode.
            MediaError: pictures of another size.
        """
        if lengths is not None:
            raise TokenError("lengths belong to padded audio; leave them out for pictures.")
        total = self.settings.num_tokens
        budget = total if num_tokens is None else num_tokens
        if not self.shortest <= budget <= total:
            legal = str(total) if self.shortest == total else f"{self.shortest} to {total}"
            raise TokenError(f"num_tokens is {budget}; legal for this model is {legal}.")
        codes = self.quantizer.encode(self.latents(x))[:, :budget]
        extent = torch.tensor(x.shape[-2:], device=x.device).expand(len(x), 2)
        return Tokens(codes, extent=extent)

    @torch.no_grad()
    def decode(self, tokens: Tokens | Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Turn tokens into pictures (B, 3, S, S) in [-1, 1].

        Args:
            tokens: codes (B, k); `Tokens.lengths` gives every item a length of its own.
            condition: (B, T, E) text features, for a text-aware decoder.

        Raises:
            TokenError: codes that do not fit ``spec``, lengths out of range, a missing condition.
        """
        codes, keep = self.kept_codes(as_tokens(tokens))
        return self.picture(self.quantizer.lookup(codes), keep, condition).clamp(-1, 1)

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the quantized latents (B, k, C); zero where an item has fewer tokens."""
        codes, keep = self.kept_codes(as_tokens(tokens))
        z = self.quantizer.lookup(codes)
        return z if keep is None else z * keep[..., None]

    def kept_codes(self, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        """Return checked codes (B, k), k the longest length, and the mask of kept ones or None."""
        codes, lengths = tokens.codes, tokens.lengths
        size = self.settings.image_size
        if tokens.extent is not None and bool((tokens.extent != size).any()):
            raise TokenError(
                f"the tokens carry the size {tokens.extent[0].tolist()} but this network paints "
                f"{size} x {size}; drop the extent and restore the size afterwards."
            )
        keep = None
        if lengths is not None and len(codes):
            in_range = int(lengths.min()) >= 1 and int(lengths.max()) <= codes.shape[-1]
            if lengths.shape != codes.shape[:1] or not in_range:
                raise TokenError(
                    f"lengths are {lengths.tolist()} for codes of shape {tuple(codes.shape)}; "
                    "legal is one length per item, from 1 to the number of codes."
                )
            longest, keep = keep_mask(lengths, codes.device)
            codes = codes[:, :longest]
            if keep is not None:
                if self.shortest == self.settings.num_tokens:
                    raise TokenError("TiTok decodes one length only; use OneDPiece for others.")
                codes = torch.where(keep, codes, 0)  # what lies behind the length is padding
        self.spec.check(codes)
        return codes, keep

    # -- training ------------------------------------------------------------------------------

    def forward(
        self, x: Tensor, *, tokens: Tokens | None = None, condition: Tensor | None = None
    ) -> TrainingOutput:
        """Reconstruct for training.

        Args:
            x: (B, 3, S, S) in [-1, 1].
            tokens: given, the encoder is skipped and only the decoder trains.
            condition: as in `decode`.

        Returns:
            The picture (None at stage 1), codes, the quantizer's losses over all N tokens, and
            ``features["proxy_logits"]`` (B, K, G, G) with the legacy head.
        """
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if tokens is None:
            quantized = self.quantizer(self.latents(x))
            z, statistics, features = decoder_latents(self, quantized, self.quantizer.lookup)
            tokens = Tokens(quantized.codes)
            # Stage 2 trains the decoder alone; the official losses are 0 there.
            losses = self.code_losses(quantized.losses)
        else:
            z = self.quantizer.lookup(self.kept_codes(tokens)[0])
        out = self._output(z, tokens, losses, statistics, condition)
        return out._replace(features={**out.features, **features})

    def _output(
        self, z: Tensor, tokens: Tokens, losses: dict[str, Tensor],
        statistics: dict[str, Tensor], condition: Tensor | None,
    ) -> TrainingOutput:  # fmt: skip
        picture, logits = self.paint(z, None, condition)
        features = {} if logits is None else {PROXY_LOGITS: logits}
        return TrainingOutput(picture, tokens, losses, statistics, features=features)

    # -- two-stage training --------------------------------------------------------------------

    def with_pixel_stage(self, teacher: MaskGitVQGAN) -> Self:
        """Return a stage-2 model: these weights plus the teacher's code vectors and decoder.

        Raises:
            WeightsError: the teacher does not fit this model's proxy codes.

        Example:
            >>> stage2 = stage1.with_pixel_stage(teacher)
        """
        self.attach_teacher(teacher)
        sizes = ("hidden_channels", "channel_mult", "num_res_blocks", "z_channels")
        options = {name: teacher.config[name] for name in sizes}
        options["channel_mult"] = list(options["channel_mult"])
        known = {k: v for k, v in self.config.items() if not k.startswith("_")}
        model = type(self)(**known | {"pixel_decoder": options})
        state = dict(self.state_dict())
        state["pixel_stage.codebook"] = teacher.quantizer.codebook
        for name, tensor in teacher.decoder.state_dict().items():
            state[f"pixel_stage.decoder.{name}"] = tensor
        model.load_state_dict(state)
        return model
