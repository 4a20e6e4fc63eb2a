"""The contract of every generator, as `tok_core.contract` is that of every tokenizer.

    codes (B, *axes) --spec.to_sequence--> (B, L, F) --forward--> logits (B, L, F, V), losses
    condition --session--> step 0, 1, 2, ... --draw--> codes

Outside, codes have the tokenizer's layout and raster or scale order; permutations, folds and
shuffles stay inside.  Letters: B batch, L positions, F factors (branch, level or dimension), V
vocabulary, R rows (B, or 2 B under guidance: the conditional half first), n places of a step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from generators.steps import Step
from tok_core.errors import ConfigError, TokenError
from tok_core.model import Model
from tok_core.token_spec import POSITION_AXES, Axis, TokenSpec


class Condition(NamedTuple):
    """What a batch of samples is to show; all None for an unconditional model.

    Attributes:
        labels: int64 (B,) classes from 0.
        features: float (B, T, C) caption features, padded at the left.
        mask: bool (B, T), True where a feature is real; None where all are.
    """

    labels: Tensor | None = None
    features: Tensor | None = None
    mask: Tensor | None = None


UNCONDITIONAL = Condition()


class GeneratorOutput(NamedTuple):
    """What `Generator.forward` returns.

    Attributes:
        logits: float32 (B, L, F, V), in sequence order; entries behind a factor's own vocabulary
            are -inf.
        losses: named scalars to sum up and minimise.
        statistics: named tensors to log.
    """

    logits: Tensor
    losses: dict[str, Tensor]
    statistics: dict[str, Tensor]


class Draw(Protocol):
    """How a session asks for codes."""

    def __call__(self, logits: Tensor, places: Tensor, factor: int = 0) -> Tensor:
        """Return int64 (B, n) for logits (R, n, V) at sequence positions (n,) of one factor.

        Codes to keep are returned instead of drawn ones, so that what is drawn later sees them.
        """


class Session(Protocol):
    """One generation: the cache and everything else that changes between steps.

    Attributes:
        steps: how often `step` is to be called, each time with the next number from 0.
    """

    steps: int

    def step(self, step: int, codes: Tensor, draw: Draw) -> None:
        """Draw the codes of a step into ``codes``, int64 (B, L, F) in sequence order, in place."""


class StaticSession(Protocol):
    """A session whose steps have fixed shapes, so that they can be captured and used again.

    Attributes:
        steps: how many there are.
    """

    steps: int

    def begin(self, condition: Condition) -> None:
        """Start over with another condition, in the same memory."""

    def prepare(self, step: int) -> Hashable:
        """Do what a step needs of the host; steps that return equal things have equal shapes."""

    def step(self, step: Step, codes: Tensor, draw: Draw) -> None:
        """As `Session.step`; the first step as the number 0, later ones as a tensor."""


class Settings(Protocol):
    """What every generator's checked options hold."""

    @property
    def spec(self) -> TokenSpec:
        """Of its tokens, all sizes fixed."""

    @property
    def classes(self) -> int:
        """Number of labels, 0 for none."""


class Generator(Model):
    """A model over the tokens of one tokenizer; `generators.sampling.sample` draws from it.

    Subclasses keep ``spec`` (JSON of a `TokenSpec`) and ``code_hash`` (of the tokenizer, or None
    where it is not known) in their config.

    Attributes:
        settings: the checked options of a subclass, ``spec`` and ``classes`` among them.
        consumes_values: whether it needs the tokenizer's tables, see `attach`.
        no_decay: beginnings of the names of tables that weight decay leaves alone.
        static_steps: whether there is a `static_session`.
    """

    settings: Settings
    consumes_values: ClassVar[bool] = False
    no_decay: ClassVar[tuple[str, ...]] = ()
    static_steps: ClassVar[bool] = False

    @property
    def spec(self) -> TokenSpec:
        """What its codes look like."""
        return self.settings.spec

    @property
    def classes(self) -> int:
        """Number of labels it was made for, 0 for none."""
        return self.settings.classes

    @property
    def captions(self) -> tuple[int, int] | None:
        """(T, C) of the caption features it was made for, None for labels or nothing."""
        return getattr(getattr(self, "condition", None), "caption_shape", None)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Axis sizes of one generation's codes."""
        return tuple(axis.size or 0 for axis in self.spec.axes)

    def forward(self, codes: Tensor, *, condition: Condition = UNCONDITIONAL) -> GeneratorOutput:
        """Predict codes (B, *axes) by teacher forcing; conditions are dropped in training mode."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def session(self, condition: Condition, *, batch: int, guided: bool) -> Session:
        """Begin a generation of ``batch`` samples, with rows for guidance or without."""
        raise TypeError(f"{type(self).__name__} does not define session")

    def static_session(self, condition: Condition, *, batch: int, guided: bool) -> StaticSession:
        """Begin a generation with steps of fixed shapes, where ``static_steps`` says there are."""
        raise TypeError(f"{type(self).__name__} does not define static_session")

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Return whether weight decay applies: to all of two axes and more, but ``no_decay``."""
        return parameter.ndim >= 2 and not name.startswith(self.no_decay)

    def attach(self, tokenizer: Any) -> None:
        """See the tokenizer before training or sampling; generators of values take its tables."""
        self.check_fits(tokenizer)

    def check_fits(self, tokenizer: Any) -> None:
        """Refuse a tokenizer whose tokens this generator was not made for.

        A tokenizer whose decoder alone was trained further has the same code hash and fits.

        Raises:
            TokenError: another shape or vocabulary, or another code hash.
        """
        ours, theirs = self.spec, tokenizer.spec
        if not _made_for(ours, theirs):
            raise TokenError(
                f"this {type(self).__name__} was made for {described(ours)} and this "
                f"{type(tokenizer).__name__} makes {described(theirs)}; use them with others of "
                "their kind."
            )
        known = self.config.get("code_hash")
        if known is not None and known != tokenizer.code_hash():
            raise TokenError(
                f"this {type(self).__name__} was trained on tokens of code hash {known[:16]} and "
                f"this {type(tokenizer).__name__} has {tokenizer.code_hash()[:16]}; load the "
                "tokenizer it was trained with (decoders may differ, encoder and codebook not)."
            )


def _made_for(ours: TokenSpec, theirs: TokenSpec) -> bool:
    """Whether a generator's codes are codes of a tokenizer, whose free sizes take any."""
    if (ours.vocabulary, ours.scales) != (theirs.vocabulary, theirs.scales):
        return False
    if [axis.name for axis in ours.axes] != [axis.name for axis in theirs.axes]:
        return False
    pairs = zip(ours.axes, theirs.axes, strict=True)
    return all(axis.size is None or axis.size == own.size for own, axis in pairs)


def fixed_spec(spec: TokenSpec, sizes: Sequence[int] | None = None) -> TokenSpec:
    """Return a spec whose sizes are those of one generation.

    Args:
        spec: of a tokenizer. sizes: of all axes; None takes the spec's own, and the network's
            native grid where a grid follows the input.

    Raises:
        ConfigError: a size that the spec rules out, or an axis that stays free.
    """
    own = dict(zip(("row", "column"), spec.grid or (None, None), strict=True))
    given: Sequence[int | None] = sizes or [axis.size or own.get(axis.name) for axis in spec.axes]
    axes = []
    for axis, size in zip(spec.axes, given, strict=True):
        if size is None or not axis.minimum <= size <= (axis.size or size):
            raise ConfigError(
                f"{size} positions along '{axis.name}' do not fit these tokens; give sizes of "
                "codes that their tokenizer makes."
            )
        axes.append(Axis(name=axis.name, size=size, minimum=size))
    # The native grid of a network says nothing about codes of another size.
    found = {axis.name: axis.size for axis in axes}
    grid = (found["row"], found["column"]) if "row" in found else spec.grid
    return replace(spec, axes=tuple(axes), grid=grid)  # type: ignore[arg-type]


def check_sizes_known(spec: TokenSpec) -> None:
    """Refuse a spec with an open axis: a generator has a place for every position.

    Raises:
        ConfigError: an axis without a size.
    """
    free = [f"'{axis.name}'" for axis in spec.axes if axis.size is None]
    if free:
        raise ConfigError(
            f"the token spec leaves the size along {' and '.join(free)} open; fix it with "
            "generators.contract.fixed_spec."
        )


def positions_of(spec: TokenSpec) -> int:
    """Return L, the number of positions of a spec without open axes; factors do not count."""
    return math.prod(axis.size or 0 for axis in spec.axes if axis.name in POSITION_AXES)


def read_spec(given: Any) -> TokenSpec:
    """Read a spec from JSON text or a JSON object."""
    return TokenSpec.from_json(given if isinstance(given, str) else json.dumps(given))


def described(spec: TokenSpec) -> str:
    """Return a spec in a few words.

    Example:
        >>> described(spec)  # doctest: +SKIP
        'image codes (row 16, column 16) of 4096'
    """
    axes = ", ".join(f"{axis.name} {axis.size or 'free'}" for axis in spec.axes)
    books = "/".join(str(size) for size in dict.fromkeys(spec.vocabulary))
    return f"{spec.modality} codes ({axes}) of {books}"


def check_labels(labels: Tensor | None, classes: int, batch: int) -> None:
    """Refuse labels that a class-conditional generator cannot take.

    Raises:
        ConfigError: none given, given to an unconditional model, of another number, or out of
            range.
    """
    if not classes:
        if labels is not None:
            raise ConfigError("labels came in but this generator knows no classes; leave them out.")
        return
    if labels is None:
        raise ConfigError(f"this generator needs labels from 0 to {classes - 1}; give some.")
    if labels.shape != (batch,):
        shape = tuple(labels.shape)
        raise ConfigError(f"labels of shape {shape} came in for {batch} samples; give one each.")
    if batch and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ConfigError(f"label {int(wrong)} is out of range; legal is 0 to {classes - 1}.")
