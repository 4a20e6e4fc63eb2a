"""Speak sentences in many voices into a folder of WAV files: sound to train on without a download.

    python examples/speak_sounds.py sounds/ --count 6000 --seconds 3
    tessera tokenize sounds/ tokens/ --model wavtokenizer-tiny

espeak-ng speaks, or a small formant synthesiser where it is missing; sound i is the same in every
run with one seed.  Files that are there are kept: stopped halfway, the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path

from audio_tok.audio_data import AudioDataConfig, open_audio
from audio_tok.audio_file import write_audio

CHUNK = 25


def speak(folder: Path, samples: int, rate: int, seed: int, numbers: Iterable[int]) -> None:
    """Speak the sounds of these numbers that are not there yet, each of so many samples."""
    source = None
    for number in numbers:
        file = folder / f"{number:05d}.wav"
        if not file.is_file():
            source = source or open_audio(
                AudioDataConfig(source="speech", segment=samples, sample_rate=rate, seed=seed)
            )
            write_audio(file, source.item(number), rate)


def speak_folder(folder: Path, count: int, samples: int, rate: int, seed: int = 7) -> None:
    """Speak ``count`` sounds on all processors."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        (folder, samples, rate, seed, range(a, min(a + CHUNK, count)))
        for a in range(0, count, CHUNK)
    ]
    if len(parts) == 1:  # sooner done than other processes are there
        speak(*parts[0])
    else:
        with get_context("spawn").Pool() as pool:
            pool.starmap(speak, parts)
    print(f"{count} sounds of {samples / rate:g} s are in {folder}")


def main() -> None:
    """Read the command line and speak."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("sounds"))
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one sound")
    parser.add_argument("--rate", type=int, default=24_000, help="samples a second")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    samples = round(options.seconds * options.rate)
    speak_folder(options.folder, options.count, samples, options.rate, options.seed)


if __name__ == "__main__":
    main()
