"""Any vision transformer of the transformers library as a source of patch tokens.

Letters: B pictures, h w token grid, N = h * w, W width.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tok_core.errors import ConfigError, MediaError, WeightsError
from tok_core.shipped_models import is_hub_id
from tok_core.torchaudio_guard import guard_torchaudio
from vision_tok.position_resize import PositionRule

# The last layer norm by the names that CLIP and SigLIP, DINOv2 and ViT, and others give it.
FINAL_NORMS = ("post_layernorm", "layernorm", "norm")


class TransformersTower(nn.Module):
    """Patch tokens of a transformers model (CLIP, SigLIP, DINOv2, ViT...) after any block.

    Args:
        architecture: the model's config as plain JSON with its ``model_type``; a text and vision
            pair's is cut down to its vision part.
        block: blocks to run; None runs all. Later ones are not built.
        final_norm: apply the model's last layer norm to every token.
        prefix: tokens before the patches (class token, registers); None counts them by the number
            of tokens that comes out.
        positions: ``size`` (transformers' own interpolation) or ``none``.

    Raises:
        ConfigError: transformers is not installed, or does not know such a model.

    Example:
        >>> tower = TransformersTower({"model_type": "dinov2", "hidden_size": 384,
        ...                            "num_attention_heads": 6})  # doctest: +SKIP
    """

    def __init__(
        self, architecture: Mapping[str, Any], *, block: int | None = None,
        final_norm: bool = True, prefix: int | None = None, positions: PositionRule = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        if positions in ("offset-0.1", "antialias"):
            raise ConfigError(
                f"positions '{positions}' is not in the transformers library; use kind 'tower', or "
                "positions 'size' or 'none'."
            )
        config = _config(architecture)
        if block is not None:
            if not 1 <= block <= config.num_hidden_layers:
                raise ConfigError(
                    f"block {block} was asked for and the model has {config.num_hidden_layers}; "
                    f"give 1 to {config.num_hidden_layers}."
                )
            config.num_hidden_layers = block
        self.model: Any = _library().AutoModel.from_config(config)
        _number_positions(self.model)
        self.width: int = config.hidden_size
        self.patch_size: int = config.patch_size
        self.native: int = config.image_size
        self.prefix, self.positions = prefix, positions
        self._last_block = _last_block(self.model, config.num_hidden_layers)
        self._norm = _final_norm(self.model) if final_norm else None

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the token grid (h, w) of pictures of that size in pixels."""
        return height // self.patch_size, width // self.patch_size

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pictures (B, 3, H, W) to patch tokens (B, N, W).

        Raises:
            MediaError: another size than the model's own while ``positions`` is ``none``.
        """
        tokens = self._tokens(x)
        return tokens[:, self._prefix(x, tokens) :]

    def class_feature(self, x: Tensor) -> Tensor:
        """Map normalised pictures (B, 3, H, W) to the class token (B, W).

        Raises:
            ConfigError: the model has none. MediaError: as `forward`.
        """
        tokens = self._tokens(x)
        if not self._prefix(x, tokens):
            raise ConfigError(
                f"{type(self.model).__name__} has no class token; set the teacher's pool to "
                "'patches', or choose a model with one, such as DINOv2."
            )
        return tokens[:, 0]

    def _prefix(self, x: Tensor, tokens: Tensor) -> int:
        h, w = self.grid_of(*x.shape[-2:])
        return tokens.shape[1] - h * w if self.prefix is None else self.prefix

    def _tokens(self, x: Tensor) -> Tensor:
        """Return all tokens (B, L, W), class token and registers first."""
        other = tuple(x.shape[-2:]) != (self.native, self.native)
        if other and self.positions == "none":
            raise MediaError(
                f"pictures of {x.shape[-1]} x {x.shape[-2]} pixels came in and this model's "
                f"positions are those of {self.native} x {self.native}; set positions to 'size'."
            )
        found: list[Any] = []
        # What hidden_states[-1] means differs between models and versions; a block's output not.
        block = self.model.get_submodule(self._last_block)
        handle = block.register_forward_hook(lambda module, given, out: found.append(out))
        try:
            # DINOv2 interpolates by itself and takes no such option.
            known = "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters
            self.model(x, **({"interpolate_pos_encoding": True} if other and known else {}))
        finally:
            handle.remove()
        tokens = found[0] if isinstance(found[0], Tensor) else found[0][0]
        if self._norm is not None:
            tokens = self.model.get_submodule(self._norm)(tokens)
        return tokens

    def load(self, path: str) -> None:
        """Fill in the published weights of a folder or hub id.

        Raises:
            WeightsError: nothing there, or a tensor is missing.
        """
        library = _library()
        # Blocks that we leave out would be reported one by one.
        loud = library.logging.get_verbosity()
        library.logging.set_verbosity_error()
        try:
            model, info = library.AutoModel.from_pretrained(
                path, config=self.model.config, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(f"cannot read the vision model '{path}' ({_line(error)}).") from None
        finally:
            library.logging.set_verbosity(loud)
        if info["missing_keys"] or info["mismatched_keys"]:
            odd = sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]}))[0]
            raise WeightsError(f"'{path}' lacks {odd} for {type(self.model).__name__}.")
        self.model.load_state_dict(model.state_dict())


def architecture_of(path: str) -> dict[str, Any]:
    """Return the vision architecture that a folder or hub id holds, as plain JSON.

    Raises:
        WeightsError: no such folder, or no config in it.
    """
    if not Path(path).expanduser().is_dir() and not is_hub_id(path):
        raise WeightsError(
            f"there is no vision model folder '{path}'; give a folder with config.json, or a hub "
            "id such as facebook/dinov2-base."
        )
    library = _library()
    try:
        config = library.AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read the vision model '{path}' ({_line(error)}).") from None
    config = getattr(config, "vision_config", config)
    return {"model_type": config.model_type, **config.to_diff_dict()}


def _config(architecture: Mapping[str, Any]) -> Any:
    values = dict(architecture)
    kind = values.pop("model_type", None)
    library = _library()
    try:
        config = library.AutoConfig.for_model(kind, **values)
    except ValueError:
        raise ConfigError(
            f"architecture names the model_type {kind!r}, which this transformers library does not "
            "know; give one such as clip_vision_model, siglip_vision_model or dinov2."
        ) from None
    config = getattr(config, "vision_config", config)
    lacking = [
        name for name in ("hidden_size", "patch_size", "image_size", "num_hidden_layers")
        if not isinstance(getattr(config, name, None), int)
    ]
    if lacking:
        raise ConfigError(
            f"'{kind}' has no whole number {lacking[0]}, so it is no plain vision transformer; use "
            "one with square patches."
        )
    return config


def _library() -> Any:
    guard_torchaudio()
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"kind 'transformers' needs the transformers library ({_line(error)}); install it with "
            "pip install transformers, or use kind 'tower'."
        ) from None
    return transformers


def _number_positions(model: nn.Module) -> None:
    """Make the tables of row numbers real, which no weights file fills where we build on meta."""
    for part in model.modules():
        table = getattr(part, "position_ids", None)
        if isinstance(table, Tensor) and table.is_meta:
            numbers = torch.arange(table.shape[-1], device="cpu").expand(table.shape)
            part.register_buffer("position_ids", numbers, persistent=False)


def _last_block(model: nn.Module, layers: int) -> str:
    for name, part in model.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) == layers:
            return f"{name}.{layers - 1}"
    raise ConfigError(
        f"{type(model).__name__} keeps its {layers} blocks in no one list; use kind 'timm'."
    )


def _final_norm(model: nn.Module) -> str:
    names = dict(model.named_modules())
    for wanted in FINAL_NORMS:
        found = [name for name in names if name.rpartition(".")[2] == wanted]
        # The outermost one; blocks have norms of the same name.
        if found:
            return min(found, key=lambda name: name.count("."))
    raise ConfigError(
        f"{type(model).__name__} has no final layer norm; set final_norm to false."
    )


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
