"""What an official checkpoint's names and shapes say, and which class may take them.

    our name --renamed--> official name      shapes_of --> sizes      count_of --> depths

Every importer reads its family's files with these; `tok_core.official_fit` then fills the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from tok_core.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]
T = TypeVar("T")


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Return name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def renamed(name: str, table: Iterable[tuple[str, str]]) -> str:
    r"""Apply every (pattern, replacement) of a table to a name, one after the other.

    Example:
        >>> renamed("trunk.blocks.3.norm.weight", [(r"^trunk\.", ""), (r"\.norm\.", ".ln.")])
        'blocks.3.ln.weight'
    """
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def count_of(names: Iterable[str], prefix: str) -> int:
    r"""Return how many different numbers follow a prefix: the depth of a stack of blocks.

    Args:
        names: of a checkpoint's tensors. prefix: what stands before the number, dot included.

    Example:
        >>> count_of(["layers.0.a", "layers.0.b", "layers.1.a", "head"], "layers.")
        2
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({match[1] for name in names if (match := pattern.match(name))})


def class_to_build(asked: type[Any] | None, found: type[T], source: str) -> type[T]:
    """Return the class that was asked for, or the family's own where none was.

    Args:
        asked: a class or None. found: the class that the checkpoint belongs to.
        source: what the checkpoint is called.

    Raises:
        WeightsError: the asked one is no kind of the family's.
    """
    if asked is None:
        return found
    if not issubclass(asked, found):
        raise WeightsError(
            f"{source} holds a {found.__name__}, not a {asked.__name__}; load it as one."
        )
    return asked
