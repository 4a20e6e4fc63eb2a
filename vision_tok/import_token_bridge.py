"""Importer of KL autoencoders: MAR's KL-16, latent diffusion's files, diffusers' AutoencoderKL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok_core.contract import Autoencoder
from tok_core.errors import WeightsError
from tok_core.frequency_order import KL16_ORDER
from tok_core.official_fit import fill, recognised_parts
from tok_core.official_names import shapes_of
from tok_core.official_source import official_files
from tok_core.official_weights import read_state
from vision_tok.autoencoder_kl import KL16, DiffusersAutoencoder, given_scaling
from vision_tok.autoencoder_kl_keys import latent_diffusion_names
from vision_tok.conv_autoencoder_keys import modern_attention_names
from vision_tok.import_vqgan import WRAPPERS, tokenizer_part
from vision_tok.infer_token_bridge import is_kl16, network_of, plain_options, settings_of
from vision_tok.kl_autoencoder import KLAutoencoder
from vision_tok.token_bridge import TokenBridgeTokenizer

_PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")


def import_token_bridge(
    source: str | Path, config: Mapping[str, Any] | str | Path | None = None, *,
    cls: type[Autoencoder] | None = None,
) -> Any:  # fmt: skip
    """Read a published KL autoencoder; every key must find its place on both sides.

    Args:
        source: MAR's ``kl16.ckpt``, an autoencoder of latent diffusion (``.ckpt``), a safetensors
            file, or the folder or hub id of a diffusers AutoencoderKL.
        config: settings of the quantization as an object or JSON file: ``scale``, ``bits``, ``low``
            and so on by our names or the official ones; needed where nothing states the scale.
        cls: `TokenBridgeTokenizer` (default) or `KLAutoencoder`, which takes no settings.

    Returns:
        The model in eval mode, float32, on the CPU.

    Raises:
        WeightsError: unreadable file, an unknown layout, keys left over on either side, shapes or
            a config that do not fit. ConfigError: no scale anywhere, or illegal settings.

    Example:
        >>> tokenizer = import_token_bridge("kl16.ckpt")  # doctest: +SKIP
    """
    files = official_files(
        source, config, foreign=TokenBridgeTokenizer.foreign_classes,
        such_as="a diffusers AutoencoderKL folder",
    )  # fmt: skip
    state = read_state(files.weights, WRAPPERS)
    # A config that names its class is diffusers': it describes the network, not the quantization.
    described = [c for c in (files.given, files.beside) if c is not None and "_class_name" in c]
    settings = [c for c in (files.given, files.beside) if c is not None and c not in described]
    network = described[0] if described else None
    return token_bridge_from_state(
        state, settings[0] if settings else None, network=network, cls=cls, name=str(source)
    )


def token_bridge_from_state(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, *,
    network: Mapping[str, Any] | None = None, cls: type[Autoencoder] | None = None,
    name: str = "the checkpoint",
) -> Any:  # fmt: skip
    """Build the model that a state dict with official names belongs to (tensors may be on meta).

    Args:
        state: tensors. config: settings, as `import_token_bridge`.
        network: diffusers' config, for tensors in diffusers' layout.
        cls, name: as `import_token_bridge`; what errors call the source.

    Raises:
        WeightsError, ConfigError: as `import_token_bridge`.
    """
    chosen = TokenBridgeTokenizer if cls is None else cls
    if not issubclass(chosen, DiffusersAutoencoder):
        raise WeightsError(f"{name} holds a KL autoencoder, not a {chosen.__name__}.")
    state = tokenizer_part(state)
    options = plain_options(config)
    settings = settings_of(options)
    theirs = any(key.startswith("encoder.down.") for key in state)
    if theirs:
        network = network_of(shapes_of(state), options)
        if is_kl16(network):
            network |= {key: KL16[key] for key in ("scaling_factor", "sample_size")}
            settings.setdefault("channel_order", list(KL16_ORDER))
    elif network is None:
        raise WeightsError(
            f"{name} is in no layout of a KL autoencoder: {recognised_parts(state, _PARTS)}; known "
            "are MAR's and latent diffusion's (encoder.down), and diffusers' folders with their "
            "config.json."
        )
    network = {k: v for k, v in network.items() if not k.startswith("_") and v is not None}
    values = _values(chosen, network, settings)
    with torch.device("meta"):
        model = chosen(**values)
    own = model.autoencoder.state_dict()
    if theirs:
        names = latent_diffusion_names(own, len(network["block_out_channels"]))
    else:
        state, names = modern_attention_names(state), {key: (key,) for key in own}
    fill(model, {f"autoencoder.{key}": found for key, found in names.items()}, state, name)
    return model.eval()


def _values(
    chosen: type[DiffusersAutoencoder], network: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Return the keyword values of the class; a `KLAutoencoder` keeps the scale as it came."""
    if not issubclass(chosen, KLAutoencoder):
        return {"vae": network, **settings}
    scale = settings.get("scale")
    if scale is not None and given_scaling(network) is None and isinstance(scale, float):
        network = network | {"scaling_factor": scale}
    return {"vae": network, "image_size": settings.get("image_size")}
