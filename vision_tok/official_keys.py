"""Names of the official checkpoints for our parameters, both ways.

Our names say what a layer does; the official ones are those of CLIP's ViT and of MaskGIT-VQGAN.
"""

from __future__ import annotations

from torch import nn

from tok_core.official_names import renamed

_TITOK = (
    (r"^encoder\.stem\.projection\.", "encoder.patch_embed."),
    (r"^encoder\.projection\.", "encoder.conv_out."),
    (r"^decoder\.token_projection\.", "decoder.decoder_embed."),
    (r"^decoder\.text\.projection\.", "decoder.text_guidance_proj."),
    (r"^decoder\.text\.positional_", "decoder.text_guidance_positional_"),
    (r"^decoder\.head\.(?:hidden|pixels)\.", "decoder.ffn.0."),
    (r"^decoder\.head\.logits\.", "decoder.ffn.2."),
    (r"^decoder\.head\.smooth\.", "decoder.conv_out."),
    (r"^(encoder|decoder)\.norm_in\.", r"\1.ln_pre."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.ln_post."),
    (r"^(encoder|decoder)\.blocks\.", r"\1.transformer."),
    (r"\.attention_norm\.", ".ln_1."),
    (r"\.mlp_norm\.", ".ln_2."),
    (r"\.attention\.qkv\.", ".attn.in_proj_"),
    (r"\.attention\.out\.", ".attn.out_proj."),
    (r"\.mlp\.up\.", ".mlp.c_fc."),
    (r"\.mlp\.down\.", ".mlp.c_proj."),
    (r"^pixel_stage\.codebook$", "pixel_quantize.embedding.weight"),
    (r"^pixel_stage\.decoder\.", "pixel_decoder."),
)
_QUANTIZER = (
    (r"^quantizer\.codebook$", "quantize.embedding.weight"),
    (r"^quantizer\.usage_ema$", "quantize.embed_prob"),
)


def official_name(ours: str, *, titok: bool = True) -> str:
    """Return the official name of our parameter; ``titok`` False means MaskGIT-VQGAN.

    Example:
        >>> official_name("encoder.blocks.0.attention.qkv.weight")
        'encoder.transformer.0.attn.in_proj_weight'
    """
    return renamed(ours, (*(_TITOK if titok else ()), *_QUANTIZER))


def official_names(model: nn.Module) -> dict[str, str]:
    """Return our name -> official name for everything in the model's state dict."""
    titok = hasattr(model, "settings")
    return {name: official_name(name, titok=titok) for name in model.state_dict()}
