"""What trains and what stands still, by parameter name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tok_core.errors import ConfigError, nearest


def freeze(
    model: nn.Module, *, prefixes: Sequence[str] = (), train_only: str | Sequence[str] | None = None
) -> list[str]:
    """Switch gradients off for the parameters that stand still; return their names.

    Args:
        model: a tokenizer; ``train_only="decoder"`` reads its ``code_prefixes``, so that codes and
            ``code_hash`` stay what they were.
        prefixes: names or leading parts of names (``encoder``, ``quantize``) to freeze.
        train_only: ``"decoder"`` or the prefixes that train; everything else is frozen.

    Raises:
        ConfigError: a prefix fits no parameter, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen = {name for name in names if _starts(name, _known(prefixes, names))}
    if train_only == "decoder":
        ours = tuple(getattr(model, "code_prefixes", ()))
        if not ours:
            raise ConfigError(
                f"{type(model).__name__} does not say which parameters decide its codes; "
                "give train.train_only as a list of prefixes"
            )
        frozen |= {name for name in names if name.startswith(ours)}
    elif train_only is not None:
        known = _known([train_only] if isinstance(train_only, str) else train_only, names)
        frozen |= {name for name in names if not _starts(name, known)}
    if len(frozen) == len(names):
        raise ConfigError(
            "train.freeze and train.train_only leave no parameter to train; "
            "remove a prefix from one of them"
        )
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return sorted(frozen)


def set_training(model: nn.Module, frozen: Sequence[str]) -> None:
    """Put the model in training mode, but parts that are wholly frozen in eval mode.

    A frozen quantizer must not go on moving its codebook; the outermost module stays in training
    mode, so tail token drop still happens (official stage 2 does the same).
    """
    model.train()
    still = set(frozen)
    for prefix, module in model.named_modules():
        inner = [f"{prefix}.{name}" for name, _ in module.named_parameters()]
        if prefix and inner and still.issuperset(inner):
            module.eval()


def _starts(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def _known(prefixes: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the prefixes, trailing dot removed, once each is known to fit a parameter."""
    clean = [p.rstrip(".") for p in prefixes]
    for prefix in clean:
        if not any(_starts(name, [prefix]) for name in names):
            tops = sorted({name.split(".")[0] for name in names})
            raise ConfigError(
                f"no parameter starts with '{prefix}'{nearest(prefix, tops)}; "
                f"the model's parts are {', '.join(tops)}"
            )
    return clean
