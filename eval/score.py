"""Score: one number with all that is needed to trust it, and the JSON file that holds many.

Every run of the judge writes one such file; tables, plots, reports and comparisons read it.

What ``extras`` of a file may hold, all optional, for plots and reports:

    histograms: {contestant: [uses per code, ...] or {name of a codebook: [...], ...}}
    curves:     {contestant: {name: [number per position, ...], ...}}
    contestants: {contestant: {fact: value, ...}}, such as parameters and hashes
    settings:   [{contestant, metric, setting: {name: number, ...}, value}, ...]; scores named
                ``metric/name=number,name=number`` say the same without it
    samples:    [{contestant, item, original: path, reconstruction: path, budget, budget_name}, ...]
                paths relative to the score file, or absolute; the budget may be left out
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from eval.protocol import Protocol
from tok_core.atomic_write import write_bytes
from tok_core.errors import ConfigError, nearest

FORMAT, VERSION = "tessera-scores", 1
DIRECTIONS = ("higher", "lower", "none")
# The contestant that returns its input: first in tables, never ranked.
GROUND_TRUTH = "ground truth"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why some items have no number.

    Args:
        reason: one sentence. count: how many items. items: the first few, by name.
    """

    reason: str
    count: int
    items: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How sure a mean over items is, by bootstrap over the items.

    Args:
        low, high: of the 95 % interval. std: of the items. resamples, seed: of the bootstrap.
    """

    low: float
    high: float
    std: float
    resamples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """One value of one metric for one contestant at one budget.

    Args:
        contestant: as the user named it. budget: of it, such as ``64``; None for its only one.
        budget_name: what the budget counts: ``tokens``, ``quality``, ``kbit/s``.
        metric: name with variant. title, unit: for tables.
        kind: ``paired``, ``single``, ``distribution`` or ``rate``; decides what is compared.
        direction: which values are better.
        value: None where there is none; ``unavailable`` then says why.
        n: items that the value stands on. failures: items that it does not.
        spread: where there are values per item.
        warnings: sentences a reader must know, such as too few samples.
        protocol: how it was measured. options: of the metric.
        weights: hash by weight file, the contestant's own under ``contestant``.
        versions: of packages. seed: of every draw. items: hash of the list of items.
        device, dtype: where the contestant ran.
    """

    contestant: str
    metric: str
    protocol: Protocol
    budget: float | None = None
    budget_name: str = ""
    title: str = ""
    unit: str = ""
    kind: str = "paired"
    direction: str = "none"
    value: float | None = None
    unavailable: str | None = None
    n: int = 0
    failures: tuple[Failure, ...] = ()
    spread: Spread | None = None
    warnings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    items: str = ""
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            legal = ", ".join(DIRECTIONS) + nearest(str(self.direction), DIRECTIONS)
            raise ConfigError(f"direction '{self.direction}' is unknown; legal are {legal}")
        if self.budget is not None and not math.isfinite(self.budget):
            raise ConfigError(f"the budget is {self.budget}; give a finite number or leave it out.")

    @property
    def failed(self) -> int:
        """Number of items without a number."""
        return sum(one.count for one in self.failures)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; infinite and undefined numbers become words."""
        plain = dataclasses.asdict(self)
        plain["protocol"] = self.protocol.to_dict()
        return _jsonable(plain)

    @classmethod
    def from_dict(cls, plain: Any) -> Score:
        """Read `to_dict`'s output; ConfigError for what is none."""
        if not isinstance(plain, Mapping) or not {"contestant", "metric", "protocol"} <= set(plain):
            raise ConfigError("a score needs contestant, metric and protocol; this has not.")
        values = _known(cls, plain)
        values["protocol"] = Protocol.from_dict(plain["protocol"])
        for key, part in (("failures", Failure), ("spread", Spread)):
            found = plain.get(key)
            for one in found if isinstance(found, list | tuple) else (found,):
                if isinstance(one, Mapping):
                    _known(part, one)
        return _typed(cls, values)


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """All scores of one run.

    Args:
        command: the verb. title: of tables.
        scores: in table order. extras: what plots and reports draw beside, see above.
        path: where `read` found it; names it in messages, and sample paths start there.
    """

    command: str
    title: str = ""
    scores: tuple[Score, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = field(default=None, compare=False)

    def write(self, path: str | Path, *, force: bool = False) -> None:
        """Write the JSON file, whole or not at all."""
        plain = {
            "format": FORMAT, "version": VERSION, "command": self.command, "title": self.title,
            "scores": [one.to_dict() for one in self.scores], "extras": _jsonable(self.extras),
        }  # fmt: skip
        text = json.dumps(plain, indent=1, allow_nan=False) + "\n"
        write_bytes(path, text.encode(), force=force)

    @classmethod
    def read(cls, path: str | Path) -> ScoreFile:
        """Read a file; ConfigError when it is not one of ours."""
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read ({error.strerror}); give a file that eval wrote."
            ) from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is no JSON ({error}); give a file eval wrote.") from None
        if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
            raise ConfigError(f"{path} holds no scores; give a .json file that eval wrote.")
        if plain.get("version") != VERSION:
            raise ConfigError(
                f"{path} has version {plain.get('version')} of the score format, this program "
                f"reads {VERSION}; run the evaluation again."
            )
        try:
            return cls._from_dict(plain, Path(path))
        except (ConfigError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def _from_dict(cls, plain: Mapping[str, Any], path: Path) -> ScoreFile:
        scores, extras = plain.get("scores", []), plain.get("extras", {})
        if not isinstance(scores, list) or not isinstance(extras, Mapping):
            raise ConfigError(
                f"its scores are of type {type(scores).__name__} and its extras of type "
                f"{type(extras).__name__}; a list and an object are read."
            )
        return cls(
            command=str(plain.get("command", "")), title=str(plain.get("title", "")),
            scores=tuple(Score.from_dict(one) for one in scores), extras=extras, path=path,
        )  # fmt: skip


def is_ground_truth(contestant: str) -> bool:
    """Return whether these are the originals themselves, which stand first and are not ranked.

    Example:
        >>> is_ground_truth("Ground-truth")
        True
    """
    return " ".join(re.split(r"[-_\s]+", contestant.casefold())).strip() == GROUND_TRUTH


def score_schema() -> dict[str, Any]:
    """Return the JSON schema of one score, for other programs that read the files."""
    return _adapter().json_schema()


def bootstrap(values: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> Spread | None:
    """Return the 95 % interval of a mean by resampling the items; None below two items.

    Args:
        values: one finite number per item.

    Source: Efron 1979, percentile intervals.

    Example:
        >>> bootstrap([1.0, 1.0, 1.0]).high
        1.0
    """
    if len(values) < 2:
        return None
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed)
    # Resample by resample, so that memory stays at one copy of the items.
    means = np.array([
        array[draws.integers(len(array), size=len(array))].mean() for _ in range(resamples)
    ])  # fmt: skip
    low, high = np.quantile(means, [0.025, 0.975])
    return Spread(
        low=float(low), high=float(high), std=float(array.std(ddof=1)), resamples=resamples,
        seed=seed,
    )  # fmt: skip


def package_versions(names: Sequence[str] = ()) -> dict[str, str]:
    """Return versions of torch, numpy, pillow, torchmetrics and further packages installed here."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("tessera-tokenizers", "torch", "torchmetrics", "numpy", "pillow", *names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _known(cls: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    legal = {one.name for one in dataclasses.fields(cls)}
    for key in plain:
        if key not in legal:
            raise ConfigError(f"unknown key '{key}' in a {cls.__name__.lower()}"
                              f"{nearest(str(key), legal)}")  # fmt: skip
    return dict(plain)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _typed(cls: type[Score], values: Mapping[str, Any]) -> Score:
    """Build a score from JSON values; numbers may be the words nan, inf and -inf."""
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"holds {_short(first['input'])} as {where}" if where else "is not legal"
        whose = f"'{_short(values['contestant'])}' for '{_short(values['metric'])}'"
        raise ConfigError(
            f"the score of {whose} {what} ({first['msg']}); run the evaluation again."
        ) from None


@lru_cache(maxsize=1)
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Score)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
