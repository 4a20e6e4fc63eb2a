"""Config of MaskGIT: plain JSON in, one frozen, checked object out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from generators.contract import check_sizes_known, positions_of, read_spec
from tok_core.errors import ConfigError, nearest
from tok_core.token_spec import TokenSpec

NETWORKS = ("bert", "uvit")
SHARES = (
    "dropout", "attention_dropout", "condition_dropout", "label_smoothing", "unmasked_weight",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MaskGITConfig:
    """Everything `generators.maskgit.MaskGIT` is built of; its arguments say what they mean.

    Raises:
        ConfigError: sizes that do not go together, an unknown network, codes without a fixed
            number.
    """

    spec: TokenSpec
    network: str
    classes: int
    width: int
    layers: int
    heads: int
    hidden: int
    dropout: float
    attention_dropout: float
    condition_dropout: float
    label_smoothing: float
    unmasked_weight: float

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "hidden"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}; give a whole number of at least 1.")
        if type(self.classes) is not int or self.classes < 0:
            raise ConfigError(f"classes is {self.classes!r}; give their number, 0 for none.")
        if self.width % self.heads:
            raise ConfigError(
                f"width {self.width} is no multiple of {self.heads} heads; choose others."
            )
        if self.network not in NETWORKS:
            raise ConfigError(
                f"network '{self.network}' is unknown; legal are {' and '.join(NETWORKS)}"
                f"{nearest(str(self.network), NETWORKS)}"
            )
        if self.network == "uvit" and self.layers % 2:
            raise ConfigError(
                f"layers is {self.layers}, but uvit has as many out blocks as in blocks; give an "
                "even number (the middle block is not counted)."
            )
        for name in SHARES:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; give a number from 0 to 1.")
        check_sizes_known(self.spec)

    @property
    def length(self) -> int:
        """N, positions of all codes."""
        return positions_of(self.spec)


def parse_maskgit_config(values: Mapping[str, Any]) -> MaskGITConfig:
    """Return the checked options of `MaskGIT.__init__`'s plain JSON values.

    Raises:
        ConfigError: as `MaskGITConfig`. TokenError: no token spec.
    """
    chosen = {name: values[name] for name in MaskGITConfig.__dataclass_fields__}
    if chosen["hidden"] is None:
        width = chosen["width"]
        chosen["hidden"] = 4 * width if type(width) is int else width
    chosen["spec"] = read_spec(chosen["spec"])
    return MaskGITConfig(**chosen)
