"""All metrics by name: what ``--metrics`` may say, and what a verb measures by default."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache

from eval.metric_entry import MetricEntry
from tok_core.errors import ConfigError, nearest

# Every module with ENTRIES; a metric that is not reached from here cannot be named.
MODULES = (
    "image_quality", "perceptual", "fid", "procedural_distance", "speech_quality",
    "spectral_distance", "pitch", "utmos", "speaker_similarity", "word_errors", "code_usage",
)  # fmt: skip
# Short words that stand for the usual variant.
ALIASES: Mapping[str, str] = {
    "lpips": "lpips/vgg", "pesq": "pesq/wb", "msssim": "ms_ssim", "ms-ssim": "ms_ssim",
    "si-sdr": "si_sdr", "sisdr": "si_sdr", "mel": "mel_distance",
    "usage": "codes", "fid": "rfid",
}  # fmt: skip
# What DATES measures and we can; its other networks are shown as "-".
DATES = ("sdr", "si_sdr", "pesq/wb", "utmos", "stoi", "wer", "speaker_similarity")
# Measured when --metrics says nothing.
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "recon": ("psnr", "ssim", "lpips/vgg", "frechet/procedural-v1"),
    "audio": ("mel_distance", "si_sdr", "stoi", "pesq/wb", "utmos"),
    "gen": ("gfid", "sfid", "is", "precision", "recall"),
    "perturbed": ("mel_distance", "stoi"),
}


@cache
def entries() -> Mapping[str, MetricEntry]:
    """Return every metric by name, in table order."""
    found: dict[str, MetricEntry] = {}
    for module in MODULES:
        for entry in importlib.import_module(f"eval.{module}").ENTRIES:
            if entry.name in found:
                raise RuntimeError(f"two metrics are called {entry.name}")
            found[entry.name] = entry
    return found


def entry_named(name: str) -> MetricEntry:
    """Return a metric by name or alias.

    Raises:
        ConfigError: no such metric; the nearest is suggested.

    Example:
        >>> entry_named("lpips").name
        'lpips/vgg'
    """
    known = entries()
    word = ALIASES.get(name.lower(), name)
    if word not in known:
        word = word.lower()
    if word not in known:
        raise ConfigError(
            f"metric '{name}' is unknown; eval metrics lists all that there are"
            f"{nearest(word, [*known, 'lpips', 'pesq'])}"
        )
    return known[word]


def metrics_named(
    names: Sequence[str], sense: str, *, kinds: Sequence[str] = ("paired", "single", "distribution")
) -> list[MetricEntry]:
    """Return several metrics that fit a run, each once.

    Args:
        names: words of ``--metrics``. sense: of the run. kinds: that its verb can feed.

    Raises:
        ConfigError: an unknown name, or a metric of another sense or kind.
    """
    chosen: dict[str, MetricEntry] = {}
    for name in names:
        entry = entry_named(name)
        if entry.sense == "tokens" and entry.kind == "paired" and sense == "audio":
            from eval.heard_words import heard

            # Texts come from a recogniser, which `eval.session` puts in where one is named.
            entry = heard(entry, None, None)
        if entry.sense not in (sense, "tokens") or entry.kind not in kinds:
            legal = [e.name for e in entries().values() if e.sense == sense and e.kind in kinds]
            raise ConfigError(
                f"metric '{name}' is for {entry.sense} ({entry.kind}) and this run measures "
                f"{sense}; legal are {', '.join(legal)}."
            )
        chosen[entry.name] = entry
    return list(chosen.values())


def usual(command: str, sense: str) -> tuple[str, ...]:
    """Return the names of what a verb measures by default."""
    return DEFAULTS.get(command) or DEFAULTS["recon" if sense == "image" else "audio"]


def words(texts: Sequence[str]) -> list[str]:
    """Split what the user wrote, ``["a,b", "c"]``, into words at the commas."""
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]
