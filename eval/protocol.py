"""Protocol: everything beside the tokenizer that a score depends on, fixed and stored with it.

One metric's name hides many conventions; two scores are comparable only where the fields that
their metric looks at are equal, which `difference` tells by name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tok_core.errors import ConfigError, nearest

# Legal words per field; numbers and hashes are checked by hand below.
LEGAL: Mapping[str, tuple[str, ...]] = {
    "sense": ("image", "audio"),
    "crop": ("adm", "shorter-side", "lanczos-1.125", "none"),
    "byte_rule": ("round", "truncate", "adm"),
    "reference": ("originals", "file"),
    "extractor_resize": ("tf", "pytorch-fid", "clean"),
    "precision": ("float32", "float64"),
    "inception_splits": ("shuffled-10", "chunks-5000", "one-pass"),
    "resample": ("torchaudio-sinc",),
    "trim": ("shorter", "original"),
    "channels": ("downmix",),
    "sample_format": ("float", "pcm16"),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one benchmark measures.

    Args:
        name: as tables and docs call it. sense: ``image`` or ``audio``. source: who measures so.
        split: of the data set, such as ``val``; part of the meaning of every score. ``as given``:
            whatever the user's files are, which the hash of the items alone identifies.
        samples: how many the benchmark takes; None for all there are.
        crop, size: of pictures, see `tok_core.evaluation_crop` (the crop names its kernel); size
            in pixels, None leaves pictures as they are.
        byte_rule: floats to bytes, see `tok_core.byte_rules`.
        reference: ``originals`` of the same run, or the statistics in a ``file``.
        reference_sha256: of that file, once known.
        extractor, extractor_sha256: the feature network and its weights, once known.
        extractor_resize: how pictures reach the network's size. precision: of its arithmetic.
        inception_splits: how the samples are split for the Inception Score.
        sample_rate: in Hz at which sound goes in; None for the lowest rate among the files, which
            the score then holds.
        resample: the resampler. channels: how many become one.
        trim: ``shorter`` cuts both sounds to the shorter one, ``original`` pads or cuts the
            decoded one to the original's length.
        sample_format: ``float``, or ``pcm16`` for sounds that went through 16-bit files.

    Raises:
        ConfigError: a word or number that is not legal.

    Example:
        >>> protocol_named("titok").crop
        'shorter-side'
    """

    name: str
    sense: str
    source: str = ""
    split: str = "val"
    samples: int | None = None
    crop: str = "none"
    size: int | None = None
    byte_rule: str = "round"
    reference: str = "originals"
    reference_sha256: str | None = None
    extractor: str | None = None
    extractor_sha256: str | None = None
    extractor_resize: str = "tf"
    precision: str = "float32"
    inception_splits: str = "shuffled-10"
    sample_rate: int | None = None
    resample: str = "torchaudio-sinc"
    channels: str = "downmix"
    trim: str = "shorter"
    sample_format: str = "float"

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ConfigError(f"a protocol's name is '{self.name}'; give it one.")
        for field, legal in LEGAL.items():
            value = getattr(self, field)
            if value not in legal:
                raise ConfigError(
                    f"protocol '{self.name}': {field} is '{value}'; legal are {', '.join(legal)}"
                    f"{nearest(str(value), legal)}"
                )
        for field in ("samples", "size", "sample_rate"):
            value = getattr(self, field)
            whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if value is not None and not whole:
                raise ConfigError(
                    f"protocol '{self.name}': {field} is {value!r}; give a whole number above 0, "
                    "or leave it out."
                )

    def changed(self, **fields: Any) -> Protocol:
        """Return the same protocol with some fields replaced; None values are left alone."""
        given = {key: value for key, value in fields.items() if value is not None}
        return dataclasses.replace(self, **given) if given else self

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return one indented JSON object that `from_json` reads."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, plain: Any) -> Protocol:
        """Read `to_dict`'s output; ConfigError for unknown keys and illegal values."""
        if not isinstance(plain, Mapping):
            raise ConfigError(f"a protocol is a JSON object, not {type(plain).__name__}.")
        legal = {field.name for field in dataclasses.fields(cls)}
        for key in plain:
            if key not in legal:
                raise ConfigError(
                    f"unknown protocol field '{key}'{nearest(str(key), legal)}; legal are "
                    f"{', '.join(sorted(legal))}"
                )
        for key in ("name", "sense"):
            if key not in plain:
                raise ConfigError(f"this protocol has no '{key}'; give name and sense at least.")
        return cls(**plain)

    @classmethod
    def from_json(cls, text: str) -> Protocol:
        """Read `to_json`'s output."""
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"this protocol is no JSON ({error}); write a JSON object.") from None
        return cls.from_dict(plain)


class Difference(NamedTuple):
    """One field in which two things differ."""

    field: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.field} is {_short(self.first)} in one and {_short(self.second)} in the other"


_SET = ("sense", "split", "samples")
_PICTURES = (*_SET, "crop", "size")
_SOUNDS = (*_SET, "sample_rate", "resample", "channels", "trim", "sample_format")
_NETWORK = ("extractor", "extractor_sha256", "extractor_resize", "precision", "inception_splits")
# Fields that the value of a metric depends on, by its sense and kind (see `MetricEntry`).
RELEVANT: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("image", "paired"): (*_PICTURES, "byte_rule"),
    ("image", "single"): (*_PICTURES, "byte_rule", *_NETWORK),
    ("image", "distribution"): (
        *_PICTURES, "byte_rule", "reference", "reference_sha256", *_NETWORK,
    ),
    ("image", "rate"): _PICTURES,
    ("audio", "paired"): _SOUNDS,
    ("audio", "single"): _SOUNDS,
    ("audio", "rate"): _SOUNDS,
}  # fmt: skip


def difference(a: Protocol, b: Protocol, *, kind: str | None = None) -> tuple[Difference, ...]:
    """Return the fields in which two protocols differ; what they are called is no difference.

    Args:
        kind: of the metric (``paired``, ``single``, ``distribution``, ``rate``), which looks at
            some fields only; None compares all.

    Example:
        >>> [one.field for one in difference(protocol_named("titok"), protocol_named("llamagen"))]
        ['crop', 'byte_rule', 'precision', 'inception_splits']
    """
    names = [f.name for f in dataclasses.fields(Protocol) if f.name not in ("name", "source")]
    if kind is not None and a.sense == b.sense:
        names = [name for name in names if name in RELEVANT.get((a.sense, kind), names)]
    found = [Difference(name, getattr(a, name), getattr(b, name)) for name in names]
    return tuple(one for one in found if one.first != one.second)


_IMAGENET: dict[str, Any] = {
    "sense": "image", "samples": 50_000, "size": 256, "extractor": "inception-fid",
}  # fmt: skip
_SPEECH: dict[str, Any] = {"sense": "audio", "split": "test-clean"}
_BUILT_IN = (
    Protocol(
        name="adm", **_IMAGENET, split="train", crop="adm", byte_rule="adm", reference="file",
        inception_splits="chunks-5000",
        source="openai/guided-diffusion evaluations: generated samples against the .npz reference",
    ),
    Protocol(
        name="torch-fidelity", **_IMAGENET, crop="none", byte_rule="round",
        source="toshas/torch-fidelity: two folders as they are, 10 shuffled splits",
    ),
    Protocol(
        name="clean-fid", **_IMAGENET, crop="none", byte_rule="round", extractor_resize="clean",
        source="GaParmar/clean-fid: bicubic per channel in floats",
    ),
    Protocol(
        name="llamagen", **_IMAGENET, crop="adm", byte_rule="adm",
        inception_splits="chunks-5000",
        source="FoundationVision/LlamaGen tokenizer evaluation: val against val, ADM crop",
    ),
    Protocol(
        name="titok", **_IMAGENET, crop="shorter-side", byte_rule="round", precision="float64",
        inception_splits="one-pass",
        source="bytedance/1d-tokenizer and One-D-Piece: val against val in one pass",
    ),
    Protocol(
        name="mar", **_IMAGENET, split="train", crop="adm", byte_rule="truncate",
        reference="file",
        source="LTH14/mar and TokenBridge: train images against statistics of the train set",
    ),
    Protocol(
        name="mar-val", **_IMAGENET, crop="adm", byte_rule="truncate",
        source="TokenBridge README: MAR's pictures and bytes, val against val",
    ),
    Protocol(
        name="photographs", sense="image", split="as given", crop="adm", size=256,
        source="this project: small sets of pictures, the ADM crop, rounded bytes",
    ),
    Protocol(
        name="dates-speech", **_SPEECH, sample_rate=16_000,
        source="DATES, arXiv 2506.10274: speech at 16 kHz (VERSA); the test set is not named "
        "there, its ground truth fits LibriSpeech test-clean",
    ),
    Protocol(
        name="dates-audio-music", sense="audio", split="test",
        source="DATES, arXiv 2506.10274: general audio and music; neither the sets nor the rate "
        "are named there",
    ),
    Protocol(
        name="vocos-speech", **_SPEECH, sample_rate=24_000,
        source="Vocos, arXiv 2306.00814: LibriTTS test-clean at 24 kHz, cut to the shorter",
    ),
    Protocol(
        name="wavtokenizer", **_SPEECH, samples=4833, sample_rate=24_000,
        source="WavTokenizer, arXiv 2408.16532, and issue 54: LibriTTS test-clean, 24 kHz",
    ),
    Protocol(
        name="sounds", sense="audio", split="as given",
        source="this project: sounds at their own rate, compared at the original's length",
    ),
)  # fmt: skip
PROTOCOLS: Mapping[str, Protocol] = {one.name: one for one in _BUILT_IN}


def protocol_named(name: str) -> Protocol:
    """Return a built-in protocol, or read one from a ``.json`` file.

    Raises:
        ConfigError: neither; the nearest name is suggested.
    """
    if name.endswith(".json"):
        path = Path(name).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"protocol file {path} cannot be read ({reason}); give a JSON file of a protocol "
                f"or one of {', '.join(PROTOCOLS)}"
            ) from None
        return Protocol.from_json(text)
    if name not in PROTOCOLS:
        legal = ", ".join(PROTOCOLS) + nearest(name, PROTOCOLS)
        raise ConfigError(f"protocol '{name}' is unknown; legal are a .json file, {legal}")
    return PROTOCOLS[name]


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text[:12] + "..." if len(text) > 40 else text
