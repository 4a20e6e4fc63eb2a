"""TokenSpec: what a tokenizer's codes look like, in words a generator or a shard can act on.

Letters: B batch, L positions of the sequence view, F factors (branch, codebook level or dimension),
N tokens, h w grid rows and columns, D dimensions, P branches, Q codebook levels, T time steps.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tok_core.errors import TokenError, nearest

POSITION_AXES = ("token", "row", "column", "scale_token", "time")
FACTOR_AXES = ("branch", "level", "dimension")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of the codes after the batch.

    Args:
        name: ``token`` (1D image tokens), ``row``, ``column``, ``scale_token`` (all scales one
            after the other), ``time``, or a factor: ``branch``, ``level``, ``dimension``.
        size: full size, or None where it follows the input (time, a free grid).
        minimum: smallest legal size; smaller than ``size`` where a prefix can be decoded.
    """

    name: str
    size: int | None = None
    minimum: int = 1


class Coordinates(NamedTuple):
    """Where each position of the sequence view lies, int64 (L,) each, -1 where it does not apply.

    ``time`` counts 1D tokens and audio frames; ``scale`` is 0 for everything single-scale.
    """

    scale: Tensor
    row: Tensor
    column: Tensor
    time: Tensor


@dataclass(frozen=True, kw_only=True)
class TokenSpec:
    """The shape, vocabulary and rates of a tokenizer's codes; plain JSON in and out.

    Args:
        modality: ``image`` or ``audio``.
        axes: axes of ``codes`` after the batch, in order.
        vocabulary: number of codes per factor, F entries (F is 1 without a factor axis).
        scales: (h, w) of each scale in coding order, for multi-scale codes.
        grid: (h, w) of the latent grid, where there is one.
        streams: names that ``embed(stream=...)`` accepts, for shared-index codebooks.
        condition: what ``decode(condition=...)`` expects (``text``), or None.
        input_rate, output_rate: samples per second that go in and come out (audio).
        token_rate: positions per second (audio).
        image_size: native (H, W) of the network in pixels, where it is fixed.

    Raises:
        TokenError: impossible combination (unknown axis, vocabulary of the wrong length...).

    Example:
        >>> axes = (Axis(name="level", size=1), Axis(name="time"))
        >>> spec = TokenSpec(modality="audio", axes=axes, vocabulary=(4096,), token_rate=75.0)
        >>> spec.to_sequence(torch.zeros(2, 1, 75, dtype=torch.int64)).shape
        torch.Size([2, 75, 1])
    """

    modality: str
    axes: tuple[Axis, ...]
    vocabulary: tuple[int, ...]
    scales: tuple[tuple[int, int], ...] | None = None
    grid: tuple[int, int] | None = None
    streams: tuple[str, ...] = ()
    condition: str | None = None
    input_rate: int | None = None
    output_rate: int | None = None
    token_rate: float | None = None
    image_size: tuple[int, int] | None = None
    bits: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        bits = tuple(max(1, math.ceil(math.log2(max(k, 2)))) for k in self.vocabulary)
        object.__setattr__(self, "bits", bits)
        _check(self)

    # -- views ---------------------------------------------------------------------------------

    @property
    def factors(self) -> int:
        """Number of codes at one position (F)."""
        return len(self.vocabulary)

    def sizes_of(self, codes: Tensor) -> tuple[int, ...]:
        """Return the axis sizes of ``codes`` (B, *axes) after checking them against the spec."""
        names = ", ".join(axis.name for axis in self.axes)
        if codes.dim() != len(self.axes) + 1:
            raise TokenError(
                f"codes have shape {tuple(codes.shape)}; this tokenizer needs (batch, {names})."
            )
        for axis, size in zip(self.axes, codes.shape[1:], strict=True):
            top = axis.size if axis.size is not None else size
            if not axis.minimum <= size <= top:
                legal = f"{axis.minimum} to {axis.size}" if axis.size else f"{axis.minimum} or more"
                raise TokenError(f"codes have {size} along '{axis.name}'; legal is {legal}.")
        return tuple(codes.shape[1:])

    def check(self, codes: Tensor) -> None:
        """Raise TokenError unless ``codes`` (B, *axes) are int64, well-shaped and in range."""
        if codes.dtype != torch.int64:
            raise TokenError(f"codes are {codes.dtype}; pass int64 codes counted from 0.")
        self.sizes_of(codes)
        if codes.numel() == 0:
            return
        flat = self.to_sequence(codes)
        # A prefix of the levels is legal where the axis says so.
        top = torch.tensor(self.vocabulary[: flat.shape[-1]], device=codes.device)
        bad = (flat < 0) | (flat >= top)
        if bool(bad.any()):
            value, limit = int(flat[bad][0]), max(self.vocabulary)
            raise TokenError(f"code {value} is outside the vocabulary; legal is 0 to {limit - 1}.")

    def to_sequence(self, codes: Tensor) -> Tensor:
        """View codes (B, *axes) as (B, L, F): raster or scale order, factors last.

        F is smaller for codes that are a prefix of the levels.
        """
        sizes = self.sizes_of(codes)
        order = [0] + [i + 1 for i in self._positions()] + [i + 1 for i in self._factor_axes()]
        factors = math.prod(sizes[i] for i in self._factor_axes())
        length = math.prod(sizes[i] for i in self._positions())
        return codes.permute(order).reshape(codes.shape[0], length, factors)

    def from_sequence(self, sequence: Tensor, sizes: tuple[int, ...] | None = None) -> Tensor:
        """Invert `to_sequence`: (B, L, F) back to (B, *axes).

        Args:
            sequence: (B, L, F) codes.
            sizes: axis sizes; needed only where two axes follow the input (a free grid).
        """
        full: list[int | None] = [axis.size for axis in self.axes] if sizes is None else [*sizes]
        if sizes is None:
            self._infer(full, sequence.shape[1])
            if len(self._factor_axes()) == 1:
                full[self._factor_axes()[0]] = sequence.shape[2]
        places = self._positions() + self._factor_axes()
        shape = [int(full[i] or 0) for i in places]
        if math.prod(shape) != sequence.shape[1] * sequence.shape[2]:
            raise TokenError(
                f"a sequence of {sequence.shape[1]} positions and {sequence.shape[2]} factors does "
                f"not fit axis sizes {full}; pass the sizes of the codes it came from."
            )
        back = sequence.reshape(sequence.shape[0], *shape)
        inverse = [0] + [places.index(i) + 1 for i in range(len(self.axes))]
        return back.permute(inverse)

    def coordinates(self, sizes: tuple[int, ...] | None = None) -> Coordinates:
        """Return scale, row, column and time of every position in sequence order."""
        full: list[int | None] = [axis.size for axis in self.axes] if sizes is None else [*sizes]
        names = [axis.name for axis in self.axes]
        if self.scales is not None:
            return _scale_coordinates(self.scales, full[names.index("scale_token")])
        if any(full[i] is None for i in self._positions()):
            raise TokenError("this tokenizer's code sizes follow the input; pass the axis sizes.")
        if "row" in names:
            h, w = int(full[names.index("row")] or 0), int(full[names.index("column")] or 0)
            index = torch.arange(h * w)
            return Coordinates(index * 0, index // w, index % w, index * 0 - 1)
        length = int(full[self._positions()[0]] or 0)
        index = torch.arange(length)
        return Coordinates(index * 0, index * 0 - 1, index * 0 - 1, index)

    # -- JSON ----------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return the spec as one line of JSON with sorted keys."""
        plain = asdict(self)
        plain.pop("bits")
        return json.dumps(plain, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TokenSpec:
        """Read what `to_json` wrote; unknown keys are a TokenError."""
        try:
            plain = json.loads(text)
            axes = tuple(Axis(**axis) for axis in plain.pop("axes"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TokenError(f"this is not a token spec ({error}); expected JSON.") from None
        legal = {f.name for f in fields(cls) if f.init}
        for key in plain:
            if key not in legal:
                raise TokenError(f"unknown token spec key '{key}'{nearest(key, legal)}")
        return cls(axes=axes, **{key: _tuples(value) for key, value in plain.items()})

    # -- parts ---------------------------------------------------------------------------------

    def _positions(self) -> list[int]:
        return [i for i, axis in enumerate(self.axes) if axis.name in POSITION_AXES]

    def _factor_axes(self) -> list[int]:
        return [i for i, axis in enumerate(self.axes) if axis.name in FACTOR_AXES]

    def _infer(self, full: list[int | None], length: int) -> None:
        """Fill in place the sizes that follow from the number of positions."""
        free = [i for i in self._positions() if full[i] is None]
        single = self._positions() if len(self._positions()) == 1 else free
        if len(single) == 1:
            known = math.prod(int(full[i] or 1) for i in self._positions() if i != single[0])
            full[single[0]] = length // known


def _check(spec: TokenSpec) -> None:
    if spec.modality not in ("image", "audio"):
        raise TokenError(f"modality '{spec.modality}' is unknown; legal are image and audio.")
    for axis in spec.axes:
        legal = POSITION_AXES + FACTOR_AXES
        if axis.name not in legal:
            raise TokenError(f"axis '{axis.name}' is unknown{nearest(axis.name, legal)}")
    factors = math.prod(axis.size or 1 for axis in spec.axes if axis.name in FACTOR_AXES)
    if len(spec.vocabulary) != factors or min(spec.vocabulary, default=0) < 1:
        raise TokenError(
            f"the vocabulary {spec.vocabulary} needs one positive size for each of the {factors} "
            "factors."
        )
    if spec.scales is not None:
        total = sum(h * w for h, w in spec.scales)
        sizes = [axis.size for axis in spec.axes if axis.name == "scale_token"]
        if sizes != [total]:
            raise TokenError(f"scales {spec.scales} hold {total} tokens but the axis says {sizes}.")


def _scale_coordinates(scales: tuple[tuple[int, int], ...], length: int | None) -> Coordinates:
    parts = []
    for s, (h, w) in enumerate(scales):
        index = torch.arange(h * w)
        parts.append(torch.stack([index * 0 + s, index // w, index % w, index * 0 - 1]))
    scale, row, column, time = torch.cat(parts, dim=1)[:, :length]
    return Coordinates(scale, row, column, time)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
