"""Train an audio codec.

    accelerate launch -m audio_tok.train --config assets/configs/wavtokenizer-tiny.yaml
    python -m audio_tok.train --config recipe.yaml --data sounds/ --out runs/mine --resume

The run folder holds config.yaml (resolved), metrics.jsonl, checkpoints/, the tracker's files and,
at the end, model/ (the averaged weights, ready for `tok_core.load`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audio_tok.audio_data import AudioDataConfig, open_audio
from audio_tok.audio_objective import AudioObjectiveConfig, build_objective
from tok_core.errors import ConfigError
from tok_core.training.launch import Sense, TrainingRun, command, fixed_samples, train_run


@dataclass(frozen=True, kw_only=True)
class AudioRun(TrainingRun):
    """Everything an audio training run is made of; a recipe in assets/configs states it.

    Attributes:
        validation_sounds: clips scored at fixed ids; the first few are played and drawn.
    """

    name: str = "audio-run"
    data: AudioDataConfig = field(default_factory=AudioDataConfig)
    objective: AudioObjectiveConfig = field(default_factory=AudioObjectiveConfig)
    validation_sounds: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        goal = self.objective
        sizes = [goal.mel_n_fft] if goal.mel_weight else []
        sizes += goal.multi_mel_sizes if goal.multi_mel_weight else ()
        # Both ends are mirrored by half a window.
        if sizes and self.data.segment <= max(sizes) // 2:
            raise ConfigError(
                f"data.segment is {self.data.segment} samples, too short for mel windows of "
                f"{max(sizes)}; give more than {max(sizes) // 2}, or smaller windows."
            )


def train(config: AudioRun, folder: Path, *, resume: bool = False) -> Path | None:
    """Run one training; return the folder of the exported model, None when interrupted.

    Args:
        config: as `load_config` makes it.
        folder: run folder, made when missing.
        resume: continue from its newest checkpoint (from the start when there is none).

    Raises:
        TesseraError: anything a user can put right, in one sentence.

    Example:
        >>> train(load_config(AudioRun, "recipe.yaml"), Path("runs/codec"))  # doctest: +SKIP
    """
    return train_run(audio_sense(), config, folder, resume=resume)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: return 0, 2 for a user's mistake (one sentence), 130 when interrupted."""
    return command(audio_sense(), arguments)


def audio_sense() -> Sense:
    """Return what `tok_core.training.launch` needs to know of these trainings."""
    return Sense(
        program="audio_tok.train",
        description="Train an audio codec from a recipe.",
        data_help="folder of sounds, text file with one path per line, or 'procedural'",
        run=AudioRun,
        open_source=open_audio,
        build_objective=build_objective,
        make_monitor=_monitor,
        units="clips",
        check=_check_rates,
    )


def _check_rates(config: AudioRun, model: Any) -> None:
    """The data, the losses and the network must agree on what a sample is."""
    rate = getattr(model, "sample_rate", None)
    if rate is None:
        raise ConfigError(
            f"{type(model).__name__} is no audio codec; set model.class to one, such as "
            "WavTokenizer, or train it with vision_tok.train"
        )
    for name in ("data", "objective"):
        other = getattr(getattr(config, name), "sample_rate", rate)
        if other != rate:
            raise ConfigError(
                f"{name}.sample_rate is {other} Hz and the model's is {rate} Hz; make them equal"
            )


def _monitor(config: AudioRun, objective: Any) -> Any:
    """Choose how to look at the model: fixed sounds."""
    from audio_tok.validation import AudioMonitor, SilentMonitor

    if config.validation_sounds < 1:
        return SilentMonitor()
    source = open_audio(config.data, validation=True)
    sounds = fixed_samples(source, config.validation_sounds, "sound")
    return AudioMonitor(sounds, config.data.sample_rate)


if __name__ == "__main__":
    sys.exit(main())
