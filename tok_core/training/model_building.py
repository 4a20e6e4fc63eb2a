"""Make the model a run begins with, from `ModelConfig`; no parameter is ever skipped silently."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tok_core.contract import Autoencoder
from tok_core.errors import ConfigError, TesseraError, WeightsError, nearest
from tok_core.loading import load, model_class
from tok_core.training.config import ModelConfig

FRESH = "fresh"


def build_model(config: ModelConfig) -> Autoencoder:
    """Build the model of a run: from a class, from a folder, or from both.

    Returns:
        The model on the CPU, float32.

    Raises:
        ConfigError: no class and no folder, or config keys the class does not know.
        WeightsError: a folder is missing, or its tensors do not fill the model exactly.

    Example:
        >>> build_model(ModelConfig(from_="runs/stage1/model"))  # doctest: +SKIP
    """
    if config.from_ is None:
        if config.class_ is None:
            raise ConfigError(
                "the config names no model; set model.class (and model.config), or model.from to "
                "a trained folder"
            )
        model = _construct(_class(config.class_), config.config)
        _fill(model, {}, config.parts, everything=False, origin="")
        return model
    cls = _class(config.class_) if config.class_ else None
    source = cls.from_pretrained(config.from_) if cls else load(config.from_)
    if not config.config and not config.parts:
        return source
    ours = {key: value for key, value in source.config.items() if not key.startswith("_")}
    model = _construct(type(source), {**ours, **config.config})
    _fill(model, source.state_dict(), config.parts, everything=True, origin=config.from_)
    return model


def _class(name: str) -> type[Autoencoder]:
    try:
        return model_class(name)
    except WeightsError as error:
        raise ConfigError(f"model.class: {error}") from None


def _construct(cls: type[Autoencoder], values: Mapping[str, Any]) -> Autoencoder:
    legal = set(inspect.signature(cls.__init__).parameters) - {"self"}
    for key in values:
        if key not in legal:
            rest = nearest(key, legal) or f"; legal keys are {', '.join(sorted(legal))}"
            raise ConfigError(f"unknown key 'model.config.{key}'{rest}")
    try:
        return cls(**values)
    except TesseraError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.config does not make a {cls.__name__}: {error}") from None


def _fill(
    model: Autoencoder, tensors: Mapping[str, Tensor], parts: Mapping[str, str], *,
    everything: bool, origin: str,
) -> None:
    """Fill ``model`` from ``tensors`` and ``parts``; with ``everything`` nothing may stay fresh."""
    state = model.state_dict()
    filled = dict(tensors)
    fresh: list[str] = []
    for prefix, where in parts.items():
        wanted = [name for name in state if _under(name, prefix)]
        # What it replaces may have other shapes, or more tensors.
        filled = {name: tensor for name, tensor in filled.items() if not _under(name, prefix)}
        if not wanted:
            raise ConfigError(
                f"model.parts names '{prefix}', but the model has no such part"
                f"{nearest(prefix, {name.split('.')[0] for name in state})}"
            )
        if where == FRESH:
            fresh += wanted
            continue
        folder, _, inner = where.partition("#")
        theirs = load(folder).state_dict()
        for name in wanted:
            key = inner + name[len(prefix):] if inner else name
            if key not in theirs:
                raise WeightsError(
                    f"model.parts takes '{prefix}' from {where}, which lacks '{key}'"
                    f"{nearest(key, theirs)}; correct the prefix after '#'"
                )
            filled[name] = theirs[key]
    missing = [name for name in state if name not in filled and name not in fresh]
    extra = [name for name in filled if name not in state]
    if everything and (missing or extra):
        odd, side = (missing[0], "lacks") if missing else (extra[0], "has, and the model not,")
        raise WeightsError(
            f"{origin} {side} '{odd}' ({len(missing)} missing, {len(extra)} left over); name its "
            "part in model.parts with a folder or 'fresh', or correct model.config"
        )
    for name, tensor in filled.items():
        if tensor.shape != state[name].shape:
            raise WeightsError(
                f"'{name}' is {tuple(tensor.shape)} in the weights and {tuple(state[name].shape)} "
                "in model.config; make the config agree, or leave the part 'fresh'"
            )
    model.load_state_dict(filled, strict=False)


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")
