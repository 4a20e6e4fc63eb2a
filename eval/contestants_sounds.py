"""Classic sound codecs as contestants: Opus and MP3 at several bitrates.

Letters: T samples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from eval.contestant import Contestant, Reconstruction, Signal, stopwatch
from tok_core.errors import ConfigError

# kbit/s: (suffix, for tables, for curves, lowest and highest that make sense)
SETTINGS: dict[str, tuple[str, tuple[float, ...], tuple[float, ...], tuple[float, float]]] = {
    "opus": (".opus", (6, 12, 24), (6, 8, 12, 16, 24, 32, 48, 64), (6, 256)),
    "mp3": (".mp3", (8, 16, 32), (8, 16, 24, 32, 48, 64, 96, 128), (8, 320)),
}
# Samples by which LAME and the decoder delay a file that is too small to say so in its header.
MP3_DELAY = 1105


class SoundCodecContestant(Contestant):
    """A codec of libsndfile; its bytes are those of the whole file, headers and all.

    Args:
        kind: ``opus`` or ``mp3``. name: as tables call it.

    Raises:
        ConfigError: soundfile is not installed.

    Example:
        >>> SoundCodecContestant("opus").reconstruct([signal], 6)[0].rate  # doctest: +SKIP
        24000
    """

    def __init__(self, kind: str, name: str | None = None) -> None:
        try:
            import soundfile
        except (ImportError, OSError):
            raise ConfigError(
                f"'{kind}' needs the package soundfile, which is not installed; install the extra "
                "'audio' (torchaudio, soundfile)."
            ) from None
        self.kind = kind
        self.suffix, budgets, sweep, self.range = SETTINGS[kind]
        super().__init__(
            name=name or kind, sense="audio", budgets=budgets, sweep=sweep, budget_name="kbit/s",
            identity={"codec": kind, "libsndfile": soundfile.__libsndfile_version__},
        )  # fmt: skip

    def check_budget(self, budget: float | None) -> None:
        """Raise ConfigError outside the bitrates of the codec."""
        low, high = self.range
        if budget is None or not low <= budget <= high:
            raise ConfigError(
                f"{self.name} was asked for {budget} kbit/s; legal are {low} to {high}."
            )

    def reconstruct(
        self, signals: Sequence[Signal], budget: float | None = None
    ) -> list[Reconstruction]:
        """Write and read every sound in a temporary folder."""
        from audio_tok.audio_file import read_audio

        bits = 1000 * int(self.budgets[-1] or 0 if budget is None else budget)
        made = []
        with tempfile.TemporaryDirectory(prefix="tessera-eval-") as folder:
            path = Path(folder, "sound" + self.suffix)
            for signal in signals:
                with stopwatch() as encoding:
                    size = self._write(path, signal, bits)
                with stopwatch() as decoding:
                    sound = read_audio(path)
                samples = self._aligned(sound.samples, signal, sound.rate)
                made.append(
                    Reconstruction(
                        samples, rate=sound.rate, bytes_on_disk=size,
                        encode_seconds=encoding.seconds, decode_seconds=decoding.seconds,
                    )
                )  # fmt: skip
        return made

    def _write(self, path: Path, signal: Signal, bits: int) -> int:
        from audio_tok.audio_writer import write_mp3, write_opus

        assert signal.rate is not None
        write = write_opus if self.kind == "opus" else write_mp3
        return write(path, signal.values, signal.rate, bits)

    def _aligned(self, samples: Tensor, signal: Signal, rate: int) -> Tensor:
        assert signal.rate is not None
        wanted = -(-signal.values.shape[-1] * rate // signal.rate)
        if self.kind == "mp3" and samples.shape[-1] > wanted:
            samples = samples[:, MP3_DELAY:]
        return samples[:, :wanted]
