"""diffusers' AutoencoderKL inside a model of ours: built from plain JSON, checked, any size.

    picture (B, 3, H, W) --pad, encoder--> mean, log-variance (B, C, h, w);  z --decoder--> picture

Letters: B batch, C latent channels, F stride in pixels, h w cells, ceil(H / F) and ceil(W / F).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.contract import Autoencoder
from tok_core.errors import ConfigError, MediaError, TokenError, nearest
from tok_core.gaussian_posterior import GaussianPosterior
from tok_core.torchaudio_guard import guard_torchaudio

# How latents are normalised before a generator sees them; not a part of the network.
SCALING = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
# What changes nothing here: the size of tiles, and a hint for half precision.
_WITHOUT_EFFECT = ("sample_size", "force_upcast")
_ATTENTION = {True: "AttnDownEncoderBlock2D", False: "DownEncoderBlock2D"}
# MAR's KL-16, which TokenBridge's published generators were trained over.
KL16: Mapping[str, Any] = {
    "block_out_channels": [128, 128, 256, 256, 512], "layers_per_block": 2, "latent_channels": 16,
    "down_block_types": ["DownEncoderBlock2D"] * 4 + ["AttnDownEncoderBlock2D"],
    "scaling_factor": 0.2325, "sample_size": 256,
}  # fmt: skip


def autoencoder_class() -> Any:
    """Return diffusers' AutoencoderKL, imported behind the torchaudio guard."""
    guard_torchaudio()
    from diffusers import AutoencoderKL

    return AutoencoderKL


def given_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a diffusers config states itself, without what diffusers filled in.

    A config that states no ``scaling_factor`` would else get Stable Diffusion 1's.
    """
    filled = set(config.get("_use_default_values") or ())
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.items()
        if not name.startswith("_") and name not in filled and value is not None
    }


def network_options(vae: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that make the network, without those at diffusers' defaults.

    So the same network has the same config wherever it comes from.

    Raises:
        ConfigError: an option that AutoencoderKL does not have.
    """
    parameters = inspect.signature(autoencoder_class().__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if name != "self"}
    for name in vae:
        if name not in defaults:
            raise ConfigError(
                f"vae has the unknown option '{name}'; legal are diffusers' of AutoencoderKL"
                f"{nearest(name, defaults)}"
            )
    levels = _levels(vae)
    # Without types diffusers has one level, whatever the widths say.
    types = {"down_block_types": [_ATTENTION[False]] * levels,
             "up_block_types": ["UpDecoderBlock2D"] * levels}  # fmt: skip
    full = types | {n: v for n, v in vae.items() if v is not None}
    kept = {}
    for name in sorted(full):
        value, default = _plain(full[name]), _plain(defaults[name])
        if name not in (*SCALING, *_WITHOUT_EFFECT) and value != default:
            kept[name] = value
    return kept


def given_scaling(vae: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return ``scale`` and ``shift`` that a config states, or None where it states none.

    diffusers normalises to (z - shift_factor) * scaling_factor, and with statistics per channel to
    (z - mean) * scaling_factor / std.
    """
    factor = vae.get("scaling_factor")
    if factor is None:
        return None
    mean, std = vae.get("latents_mean"), vae.get("latents_std")
    if mean is not None and std is not None:
        return {"scale": [factor / s for s in std], "shift": list(mean)}
    return {"scale": factor, "shift": vae.get("shift_factor") or 0.0}


def native_size(given: int | None, vae: Mapping[str, Any]) -> int | None:
    """Return the side that commands prepare pictures for: the given one, or what ``vae`` states.

    Raises:
        ConfigError: no whole number of pixels.
    """
    if given is None:
        stated = vae.get("sample_size")
        return stated if isinstance(stated, int) else None
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ConfigError(f"image_size is {given!r}; give a side in pixels, at least 1.")
    return given


def _levels(vae: Mapping[str, Any]) -> int:
    widths = vae.get("block_out_channels", (64,))
    if not isinstance(widths, Sequence) or isinstance(widths, str) or not widths:
        raise ConfigError(
            f"vae.block_out_channels is {widths!r}; give the width of every level, such as "
            "[128, 256, 512, 512]."
        )
    for name in ("down_block_types", "up_block_types"):
        types = vae.get(name)
        if types is not None and len(types) != len(widths):
            raise ConfigError(
                f"vae.{name} has {len(types)} entries for {len(widths)} levels; give one for each "
                "of block_out_channels."
            )
    return len(widths)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class DiffusersAutoencoder(Autoencoder):
    """A model that holds an AutoencoderKL as ``autoencoder``; subclasses say what it is for."""

    _supports_gradient_checkpointing = True
    code_prefixes = ("autoencoder.encoder.", "autoencoder.quant_conv.")

    def build_autoencoder(self, vae: Mapping[str, Any]) -> None:
        """Make the network of options as `network_options` takes them.

        Raises:
            ConfigError: options that make no network, or one that is not for RGB pictures.
        """
        options = network_options(vae)
        try:
            self.autoencoder = autoencoder_class()(**options)
        except (TypeError, ValueError, RuntimeError, IndexError, ZeroDivisionError) as error:
            raise ConfigError(
                f"vae makes no AutoencoderKL ({str(error).splitlines()[0]}); check widths, "
                "norm_num_groups and block types."
            ) from None
        ends = (self.autoencoder.config.in_channels, self.autoencoder.config.out_channels)
        if ends != (3, 3):
            raise ConfigError(
                f"vae takes and gives {ends[0]} and {ends[1]} channels; pictures have 3."
            )

    @property
    def channels(self) -> int:
        """C."""
        return int(self.autoencoder.config.latent_channels)

    @property
    def factor(self) -> int:
        """F."""
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def posterior_of(self, x: Tensor, multiple: int) -> GaussianPosterior:
        """Return the Gaussian (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1], in float32.

        Args:
            x: of any size; rows and columns are repeated up to a multiple.
            multiple: in pixels.

        Raises:
            MediaError: no pictures.
        """
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 1:
            raise MediaError(
                f"pictures of shape {tuple(x.shape)} came in; this network takes (batch, 3, "
                "height, width) of at least one pixel."
            )
        rows, columns = (-size % multiple for size in x.shape[-2:])
        if rows or columns:
            x = F.pad(x, (0, columns, 0, rows), mode="replicate")
        x = x.to(self.autoencoder.encoder.conv_in.weight.dtype)
        return GaussianPosterior.of(self.autoencoder.encode(x).latent_dist.parameters, axis=1)

    def paint(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map latents (B, C, h, w), as the encoder gives them, to pictures, not clamped.

        Raises:
            TokenError: another shape, or a condition.
        """
        if condition is not None:
            raise TokenError("this decoder takes no condition; leave it out.")
        if z.dim() != 4 or z.shape[1] != self.channels:
            raise TokenError(
                f"latents of shape {tuple(z.shape)} came in; this decoder takes (batch, "
                f"{self.channels}, rows, columns)."
            )
        z = z.to(self.autoencoder.decoder.conv_in.weight.dtype)
        return self.autoencoder.decode(z).sample


def shared_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return an AutoencoderKL's own tensors by the names they have inside a model of ours."""
    return {f"autoencoder.{n}": t for n, t in model.state_dict(keep_vars=True).items()}
