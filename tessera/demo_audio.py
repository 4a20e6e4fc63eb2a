"""The sound part of the demo: sentences to tokens and back beside Opus at its lowest bitrates."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tessera.demo_images import Section
from tessera.files import make_folder
from tessera.modality import open_codec
from tessera.pipeline import Row
from tessera.report import say
from tok_core.errors import TesseraError
from tok_core.token_file import read_token_file, write_token_file

if TYPE_CHECKING:
    from torch import Tensor

    from audio_tok.audio_codec import AudioCodec, DecodedSound, Sound

T = TypeVar("T")
COLUMNS = {
    "budget": ("codec", "s"),
    "tokens_per_second": ("tokens/s", ".1f"),
    "kbit_per_second": ("kbit/s on disk", ".2f"),
    "mel_distance": ("mel distance", ".3f"),
    "si_sdr": ("SI-SDR dB", ".2f"),
    "stoi": ("STOI", ".3f"),
    "pesq": ("PESQ", ".2f"),
    "real_time_factor": ("real-time factor", ".3f"),
}
OPUS = (6, 8, 12)  # kbit/s asked for; 6 is the least that Opus offers
PACKAGES = ("soundfile", "torchaudio")
LONGEST_SHOWN = 12.0  # seconds of a spectrogram


def why_not(model: str | None) -> str | None:
    """Return the sentence that says why there is no sound demo, or None where there can be one."""
    from tessera.models import DEFAULT_MODELS, shipped_models

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"no sound in this demo: {' and '.join(missing)} not installed here (the extra 'audio')"
        )
    if model is None and DEFAULT_MODELS["audio"] not in shipped_models():
        return (
            f"no sound in this demo: the audio model '{DEFAULT_MODELS['audio']}' is not shipped "
            "with this installation; name one with --model"
        )
    return None


def packaged_sentences() -> list[Path]:
    """Return the sentences that come with the package; no model is trained on them."""
    from assets import asset_path

    return sorted(asset_path("audio").glob("*.flac"))


def audio_demo(
    output: Path,
    *,
    sounds: Sequence[str] | None = None,
    model: str | None = None,
    device: str = "auto",
    batch_size: int = 16,
) -> Section:
    """Encode sounds, write everything, return the table.

    Args:
        output: existing folder; gets ``tokens/*.tok``, ``sounds/`` (decoded and Opus) and
            ``spectrogram_*.png``.
        sounds: files, folders or globs; None takes the packaged sentences.
        model: shipped name, folder or hub id.
        device: ``auto``, ``cpu``, ...
        batch_size: network inputs per call.

    Example:
        >>> audio_demo(Path("out")).rows[0]["kbit_per_second"]  # doctest: +SKIP
        1.06
    """
    from tessera import files
    from tessera.models import default_model, load_tokenizer

    name = default_model("audio") if model is None else model
    tokenizer = load_tokenizer(name, device=device)
    codec: Any = open_codec(tokenizer, batch_size=batch_size, keep_original=True)
    sources = packaged_sentences()
    if sounds:
        sources = [item.path for item in files.find(sounds, codec.readable)]
    for folder in ("tokens", "sounds"):
        make_folder(output / folder)
    rows: dict[str, list[Row]] = {}
    made = []
    for source in sources:
        signal = codec.read(source)
        decoded, row = _through_tokens(codec, source, signal, output)
        rows[source.stem] = [row, *_through_opus(codec, source, signal, output)]
        picture = output / f"spectrogram_{source.stem}.png"
        pair = [_beginning(codec, store) for store in (signal.store, decoded.store)]
        made.append(draw_spectrograms(pair, codec.rate_in, picture, _words(source)))
    means = [_mean([some[i] for some in rows.values()]) for i in range(1 + len(OPUS))]
    facts = {
        "model": name, "code_hash": tokenizer.code_hash(), "mean": means, "sounds": rows,
    }  # fmt: skip
    return Section("audio", means, facts, made, dict(COLUMNS))


def _through_tokens(
    codec: AudioCodec, source: Path, signal: Sound, output: Path
) -> tuple[DecodedSound, Row]:
    """Encode and decode one sound, writing both files."""
    codec.decode([_good(codec.encode([signal])[0]).file])  # the first call chooses kernels
    encoded, encode_time = _timed(lambda: _good(codec.encode([signal])[0]))
    path = output / "tokens" / f"{source.stem}.tok"
    size = write_token_file(path, encoded.file, force=True)
    file = read_token_file(path, expect_code_hash=codec.model.code_hash())
    decoded, decode_time = _timed(lambda: _good(codec.decode([file])[0]))
    codec.write(output / "sounds" / f"{source.stem}.wav", decoded, force=True)
    row: Row = {"budget": "Tessera", **codec.rate(file, size), **codec.compare(signal, decoded)}
    return decoded, row | _times(row["seconds"], encode_time, decode_time)


def _through_opus(codec: AudioCodec, source: Path, signal: Sound, output: Path) -> list[Row]:
    """Encode and decode the same samples with Opus, as libsndfile writes it."""
    from audio_tok.audio_codec import DecodedSound
    from audio_tok.audio_writer import write_opus

    seconds = signal.length / signal.rate
    samples = signal.store.read(0, signal.store.length)
    rows = []
    for kbit in OPUS:
        path = output / "sounds" / f"{source.stem}_opus{kbit}.opus"
        size, encode_time = _timed(
            partial(write_opus, path, samples, codec.rate_in, 1000 * kbit)
        )
        coded, decode_time = _timed(partial(codec.read, path))
        decoded = DecodedSound(coded.store, signal.rate, signal.length)
        row: Row = {"budget": f"Opus, {kbit} kbit/s asked", "seconds": seconds, "bytes": size}
        row |= {"kbit_per_second": 8e-3 * size / seconds} | codec.compare(signal, decoded)
        rows.append(row | _times(seconds, encode_time, decode_time))
    return rows


def _times(seconds: float, encode_time: float, decode_time: float) -> Row:
    """Return seconds of work per second of sound."""
    return {
        "real_time_factor": (encode_time + decode_time) / seconds,
        "encode_real_time_factor": encode_time / seconds,
        "decode_real_time_factor": decode_time / seconds,
    }


def _good(result: T | TesseraError) -> T:
    if isinstance(result, TesseraError):
        raise result
    return result


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _mean(rows: Sequence[Row]) -> Row:
    """Return the mean of every figure over the rows that have it."""
    mean: Row = {"budget": rows[0]["budget"]}
    for key in {key: None for row in rows for key in row}:
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        if values:
            mean[key] = sum(values) / len(values)
    return mean


def _words(source: Path) -> str:
    """Return what is said in a packaged sentence, else the name of the file."""
    from assets import asset_path

    said = json.loads(asset_path("audio/SENTENCES.json").read_text(encoding="utf-8"))
    packaged = source.parent == asset_path("audio")
    return said.get(source.stem, source.stem) if packaged else source.name


def _beginning(codec: AudioCodec, store: Any) -> Tensor:
    return store.read(0, int(LONGEST_SHOWN * codec.rate_in))[0]


def draw_spectrograms(pair: Sequence[Tensor], rate: int, path: Path, words: str) -> Path:
    """Write the spectrograms of a sound and its copy, the original above the decoded one.

    Args:
        pair: original and decoded, (T,) each.
        rate: in Hz.
        path: PNG file; replaced when it exists.
        words: title, such as what is said.
    """
    import io

    from tok_core.atomic_write import write_bytes

    buffer = io.BytesIO()
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        from PIL import Image

        from audio_tok.spectrogram_picture import spectrogram_picture

        say("spectrograms without axes: matplotlib is not installed here (the extra 'demo')")
        Image.fromarray(spectrogram_picture(pair, rate)).save(buffer, format="PNG")
        write_bytes(path, buffer.getvalue(), force=True)
        return path
    seconds = len(pair[0]) / rate
    figure = Figure(figsize=(max(6.0, min(14.0, 3.0 * seconds)), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    levels = [_decibels(sound, rate) for sound in pair]
    top = max(float(level.max()) for level in levels)
    for axes, level, name in zip(
        figure.subplots(2, 1, sharex=True), levels, ("original", "decoded"), strict=True
    ):
        axes.imshow(
            level, origin="lower", aspect="auto", cmap="magma", vmin=top - 75, vmax=top,
            extent=(0, seconds, 0, rate / 2000),
        )  # fmt: skip
        axes.set_ylim(0, min(8.0, rate / 2000))
        axes.set_ylabel(f"{name}, kHz")
    axes.set_xlabel("seconds")
    figure.suptitle(words, fontsize=11)
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue(), force=True)
    return path


def _decibels(sound: Tensor, rate: int) -> Any:
    """Return dB (frequencies, frames) with windows of 25 ms every 5 ms."""
    import torch

    size, hop = max(16, rate // 40), max(1, rate // 200)
    padded = torch.nn.functional.pad(sound, (size // 2, size // 2))
    window = torch.hann_window(size)
    spectrum = torch.stft(padded, size, hop, window=window, center=False, return_complex=True)
    return (20 * torch.log10(spectrum.abs() + 1e-5)).numpy()
