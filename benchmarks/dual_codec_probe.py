"""Which row of a dual codec's tokens knows the word? `eval probe` on spoken words.

    python benchmarks/dual_codec_probe.py runs/dual-codec-tiny/model [--keep words/]

Twelve words, each spoken in ten voices at four speeds and pitches (espeak-ng, or the formant
synthesiser where it is missing); none of the words is in the training sentences on purpose, and
the probe's split is by item, so that every voice is heard in training and test.  A linear
classifier reads the mean of the token features over time, stream by stream.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "dual_codec_probe.json"
WORDS = (
    "moon", "seven", "garden", "yellow", "fish", "paper", "orange", "hello", "stop", "music",
    "window", "eight",
)  # fmt: skip
VOICES = tuple(f"en-us+{kind}{n}" for kind in ("m", "f") for n in range(1, 6))
MANNERS = ((130, 35), (150, 50), (175, 65), (200, 45))  # words a minute, espeak's pitch


def spoken_words(folder: Path) -> Path:
    """Write every word of every voice as a wav file in a folder of the word's name."""
    import soundfile

    from tok_core.procedural_speech import Utterance, speak

    for word, voice, (rate, pitch) in product(WORDS, VOICES, MANNERS):
        (folder / word).mkdir(parents=True, exist_ok=True)
        sound = speak(Utterance(word, voice, rate, pitch))
        soundfile.write(folder / word / f"{voice}_{rate}.wav", sound, 24000)
    return folder


def main() -> None:
    """Speak, probe, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a trained DualWavTokenizer")
    parser.add_argument("--keep", type=Path, help="folder for the words; else they are thrown away")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    from eval.cli import run as judge

    with tempfile.TemporaryDirectory() as place:
        folder = spoken_words(options.keep or Path(place) / "words")
        out = Path(place) / "probe.json"
        code = judge(["probe", "--tokenizer", f"dual-codec={options.model}", "--data", str(folder),
                      "--out", str(out), "--test-share", "0.5"])  # fmt: skip
        if code:
            raise SystemExit(code)
        scores = json.loads(out.read_text())["scores"]
    found = {"words": len(WORDS), "voices": len(VOICES), "manners": len(MANNERS), "accuracy": {
        one["metric"].removeprefix("probe/"): one["value"] for one in scores
    }}  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
