"""Whether an official checkpoint fits: its names against ours, its config against its shapes.

What does not fit is said in one sentence that lists both sides, the same for every importer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tok_core.errors import WeightsError

SHOWN = 5  # names of a list; more are counted


def check_names(wanted: Iterable[str], held: Iterable[str], source: str, model: str) -> None:
    """Refuse a checkpoint unless every key has its place on both sides.

    Args:
        wanted: official names of what the model needs. held: names in the checkpoint.
        source: what the checkpoint is called. model: the class it should fill.

    Raises:
        WeightsError: names are left over on either side.

    Example:
        >>> check_names({"a", "b"}, {"b", "a"}, "weights.pt", "VQGAN")
    """
    wanted, held = set(wanted), set(held)
    lacking, unknown = sorted(wanted - held), sorted(held - wanted)
    if lacking or unknown:
        raise WeightsError(
            f"{source} does not fit {model}: it lacks {_some(lacking)} and has the unknown "
            f"{_some(unknown)}."
        )


def check_agreement(config: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    """Refuse a config that contradicts what the weights say.

    Args:
        config: the official options; what is absent or null agrees with anything.
        said: what the weights say, by the same names; None where they say nothing.

    Raises:
        WeightsError: they differ.

    Example:
        >>> check_agreement({"z_channels": 256}, {"z_channels": 256, "codebook_size": 16384})
    """
    for name, shape in said.items():
        known = config.get(name)
        known = list(known) if isinstance(known, tuple) else known
        if known is not None and shape is not None and known != shape:
            raise WeightsError(
                f"the config says {name} {known} but the weights say {shape}; the two files do "
                "not belong together."
            )


def recognised_parts(names: Iterable[str], known: Iterable[str]) -> str:
    """Say which top-level parts of a checkpoint were recognised and which were not.

    Args:
        names: of its tensors. known: the parts that the family has.

    Example:
        >>> recognised_parts(["encoder.a", "encoder.b", "head.c"], ["encoder", "decoder"])
        'of its parts (with their tensors), recognised encoder (2); not recognised head (1)'
    """
    counts, family = Counter(name.partition(".")[0] for name in names), set(known)
    found, strange = (
        ", ".join(f"{top} ({n})" for top, n in sorted(counts.items()) if (top in family) is ours)
        for ours in (True, False)
    )
    return (
        f"of its parts (with their tensors), recognised {found or 'none'}; not recognised "
        f"{strange or 'none'}"
    )


def fill(
    model: nn.Module, names: Mapping[str, tuple[str, ...]], state: Mapping[str, Tensor],
    source: str, unpublished: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Assign every official tensor to ours; nothing may be left over on either side.

    Args:
        model: ours, on the meta device.
        names: our name -> official names, joined along the first axis.
        state: official tensors.
        source: what the tensors are, for the error message.
        unpublished: values of tensors of ours that no official file holds.

    Raises:
        WeightsError: tensors missing, left over or misshapen.
    """
    wanted = (part for parts in names.values() for part in parts)
    check_names(wanted, state, source, type(model).__name__)
    mine = model.state_dict()
    ours = {
        name: join_parts(state, parts, mine[name].shape, source).to(mine[name].dtype)
        for name, parts in names.items()
    }
    device = next(iter(ours.values())).device
    for name in mine.keys() - names.keys():
        value = (unpublished or {})[name]
        ours[name] = torch.full(mine[name].shape, value, dtype=mine[name].dtype, device=device)
    model.load_state_dict(ours, assign=True)


def join_parts(
    state: Mapping[str, Tensor], parts: Iterable[str], shape: torch.Size, source: str
) -> Tensor:
    """Return official tensors as one of ours: end to end, axes of size 1 at the end for nothing.

    So linear layers are 1x1 convolutions, and a flag may be a number.

    Raises:
        WeightsError: their numbers do not fill ``shape``.
    """
    tensors = [state[part] for part in parts]
    found = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    trimmed = tuple(found.shape)
    while trimmed and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    wanted = tuple(shape)
    while wanted and wanted[-1] == 1:
        wanted = wanted[:-1]
    if trimmed != wanted:
        raise WeightsError(
            f"{source} has {', '.join(parts)} of shape {tuple(found.shape)}; this model needs "
            f"{tuple(shape)}."
        )
    return found.reshape(shape)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more
