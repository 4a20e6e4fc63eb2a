"""RAR's options, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from generators.contract import check_sizes_known, positions_of, read_spec
from generators.factors import factor_starts
from tok_core.errors import ConfigError
from tok_core.token_spec import TokenSpec


@dataclass(frozen=True, kw_only=True)
class RARConfig:
    """What `generators.rar.RAR` was made with; its arguments say what they mean.

    Raises:
        ConfigError: sizes that do not fit each other, chances outside 0 to 1, a spec whose codes
            have no fixed number.
    """

    spec: TokenSpec
    classes: int
    width: int
    layers: int
    heads: int
    hidden: int
    dropout: float
    attention_dropout: float
    condition_dropout: float
    norm_eps: float

    def __post_init__(self) -> None:
        for name in ("classes", "width", "layers", "heads", "hidden"):
            value, least = getattr(self, name), 0 if name == "classes" else 1
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} is {value!r}; give a whole number of at least {least}.")
        if self.width % self.heads:
            raise ConfigError(
                f"width {self.width} is no multiple of {self.heads} heads; choose others."
            )
        for name in ("dropout", "attention_dropout", "condition_dropout"):
            chance = getattr(self, name)
            if not 0 <= chance < 1:
                raise ConfigError(f"{name} is {chance}; give a chance from 0, below 1.")
        check_sizes_known(self.spec)

    @property
    def length(self) -> int:
        """L, positions of the codes."""
        return positions_of(self.spec)

    def tables(self) -> dict[str, Tensor]:
        """Return ``starts`` (F,), where each factor's codes begin in a table of all."""
        return {"starts": factor_starts(self.spec.vocabulary)}


def parse_rar_config(values: Mapping[str, Any]) -> RARConfig:
    """Return the checked options of `RAR.__init__`'s plain JSON values.

    Raises:
        ConfigError: as `RARConfig`. TokenError: no token spec.
    """
    chosen = {name: values[name] for name in RARConfig.__dataclass_fields__}
    if chosen["hidden"] is None:
        chosen["hidden"] = 4 * chosen["width"]
    return RARConfig(**{**chosen, "spec": read_spec(chosen["spec"])})
