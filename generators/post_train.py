"""Decoder post-training: a tokenizer's decoder learns to make real signals of generated tokens.

    accelerate launch -m generators.post_train --config recipe.yaml --data photos/
    python -m generators.post_train --config assets/configs/post-train-tiny.yaml \\
        --set model.from=runs/tokenizer/model --set data.pairs.generator=runs/generator/model

Token pairs are made first (`generators.pair_maker`), by all processes, and kept; a second run goes
on with them.  Then the decoder alone trains, by the losses of the tokenizer's own kind, on
generated tokens against the real signals: ``code_hash`` stays, so that generators and token shards
go on to fit.  Qiu et al. 2025, "Robust Latent Matters", arXiv 2503.08354.

A recipe is one of vision_tok.train or audio_tok.train with ``data.pairs`` in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from audio_tok.audio_data import AudioDataConfig, open_audio
from audio_tok.train import AudioRun, audio_sense
from generators.contract import Generator
from generators.pair_maker import Crew, PairMaker, PairsConfig, kept_positions, make_pairs
from tok_core.contract import Autoencoder, Tokenizer
from tok_core.dimension_wise_tokenizer import DimensionWiseTokenizer
from tok_core.errors import ConfigError, TesseraError
from tok_core.loading import load
from tok_core.progress_bar import progress_bar
from tok_core.run_config import read_overridden, to_mapping
from tok_core.token_pairs import PairSource
from tok_core.training.launch import Sense, command, train_run
from vision_tok.image_data import ImageDataConfig, open_images
from vision_tok.train import ImageRun, image_sense


@dataclass(frozen=True, kw_only=True)
class ImagePairsConfig(ImageDataConfig):
    """Pictures as `ImageDataConfig` reads them, and the pairs made of them."""

    pairs: PairsConfig


@dataclass(frozen=True, kw_only=True)
class AudioPairsConfig(AudioDataConfig):
    """Sounds as `AudioDataConfig` reads them, and the pairs made of them."""

    pairs: PairsConfig


@dataclass(frozen=True, kw_only=True)
class ImagePostTraining(ImageRun):
    """A run config of `vision_tok.train` whose data are pairs."""

    name: str = "post-training"
    data: ImagePairsConfig


@dataclass(frozen=True, kw_only=True)
class AudioPostTraining(AudioRun):
    """A run config of `audio_tok.train` whose data are pairs."""

    name: str = "post-training"
    data: AudioPairsConfig


def post_train(config: Any, folder: Path, *, resume: bool = False) -> Path | None:
    """Make the pairs that are missing and train; return the exported model's folder.

    Args:
        config: `ImagePostTraining` or `AudioPostTraining`.
        folder: run folder, made when missing. resume: continue from its newest checkpoint.

    Raises:
        TesseraError: anything a user can put right, in one sentence.
    """
    modality = "image" if isinstance(config, ImagePostTraining) else "audio"
    return train_run(_sense(modality), config, folder, resume=resume)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: return 0, 2 for a user's mistake (one sentence), 130 when interrupted."""
    try:
        modality = _modality(arguments)
    except TesseraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return command(_sense(modality), arguments)


def _modality(arguments: Sequence[str] | None) -> str:
    """Return the sense of the tokenizer that a recipe starts from."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config")
    parser.add_argument("--set", action="append", default=[])
    options, _ = parser.parse_known_args(arguments)
    if options.config is None:
        return "image"  # only --help, or the missing option is reported
    start = read_overridden(options.config, options.set).get("model", {}).get("from")
    if start is None:
        raise ConfigError(
            "model.from names no tokenizer; add --set model.from= with the model that is to be "
            "trained further."
        )
    return str(_tokenizer(start).spec.modality)


def _tokenizer(path: str) -> Tokenizer:
    """Load what is to be trained further, or say why it cannot be."""
    model = load(path)
    if isinstance(model, Tokenizer):
        return model
    kind = type(model).__name__
    raise ConfigError(
        f"model.from is a {kind}, a continuous autoencoder without tokens; make a tokenizer of it "
        "with tessera calibrate and give that, whose decoder is the autoencoder's own."
        if isinstance(model, Autoencoder)
        else f"model.from is a {kind}, which has no decoder; give the tokenizer whose tokens it "
        "draws, and the generator as data.pairs.generator."
    )


def _generator(path: str) -> Generator:
    """Load what draws the tokens, or say why it cannot."""
    model = load(path)
    if not isinstance(model, Generator):
        raise ConfigError(
            f"data.pairs.generator is a {type(model).__name__}, which draws no tokens; give a "
            "generator that was trained on tokens of model.from."
        )
    return model


def _sense(modality: str) -> Sense:
    given = image_sense() if modality == "image" else audio_sense()
    return replace(
        given,
        program="generators.post_train",
        description="Train a decoder further, on tokens that a generator made.",
        run=ImagePostTraining if modality == "image" else AudioPostTraining,
        open_source=_open_pairs,
        complete=_with_pairs,
        check=_check,
    )


def _signals(data: Any) -> Any:
    """Open what the pairs are made of: numbered signals with labels."""
    centre = data.pairs.views == "centre"
    if isinstance(data, ImagePairsConfig):
        return open_images(ImageDataConfig(**_plain(ImageDataConfig, data)), validation=centre)
    return open_audio(AudioDataConfig(**_plain(AudioDataConfig, data)), validation=centre)


def _plain(kind: Any, data: Any) -> dict[str, Any]:
    return {f.name: getattr(data, f.name) for f in fields(kind)}


def _settings(data: Any) -> dict[str, Any]:
    """Return what decides the signals, as plain values."""
    return {name: value for name, value in to_mapping(data).items() if name != "pairs"}


def _open_pairs(data: Any) -> PairSource:
    pairs: PairsConfig = data.pairs
    kept = kept_positions if pairs.real_latents == "continuous" else None
    return PairSource(pairs.path, _signals(data), pictures=pairs.mode == "pixels", kept=kept)


def _with_pairs(config: Any) -> Any:
    """Make the pairs that are missing; the config stays as it is."""
    pairs: PairsConfig = config.data.pairs
    if config.model.from_ is None:
        raise ConfigError("model.from names no tokenizer; set it to the one that is trained on.")
    if pairs.mode == "tokens" and config.train.train_only != "decoder":
        raise ConfigError(
            f"train.train_only is {config.train.train_only!r} but pairs of tokens train decoders "
            "alone; set it to decoder (data.pairs.mode pixels trains more)."
        )
    if pairs.mode == "pixels" and pairs.real_latents == "continuous":
        raise ConfigError(
            "data.pairs.real_latents is continuous but pixels go through the quantizer again; set "
            "one of both to its default (tokens, quantized)."
        )
    if pairs.generator is None:
        return config
    from accelerate.state import PartialState

    state = PartialState(cpu=config.train.device == "cpu")
    tokenizer: Any = _tokenizer(config.model.from_)
    _check_latents(pairs, tokenizer)
    generator: Any = _generator(pairs.generator)
    tokenizer, generator = (model.to(state.device) for model in (tokenizer, generator))
    maker = PairMaker(
        pairs, generator, tokenizer, _signals(config.data), _settings(config.data)
    )
    crew = Crew(state.process_index, state.num_processes, state.wait_for_everyone)
    total = maker.plan().sources if state.is_main_process else 0
    with progress_bar(total, "pairs", unit="pairs") as advance:
        make_pairs(maker, Path(pairs.path), crew, advance)
    return config


def _check(config: Any, model: Any) -> None:
    _open_pairs(config.data).check(model, _settings(config.data))
    pairs: PairsConfig = config.data.pairs
    _check_latents(pairs, model)
    dtype = getattr(torch, config.export.dtype)
    if pairs.mode == "tokens" and not _kept_in(model, dtype):
        raise ConfigError(
            f"export.dtype {config.export.dtype} would round encoder and codebook and so change "
            "the code hash; set it to float32."
        )


def _check_latents(pairs: PairsConfig, model: Any) -> None:
    if pairs.real_latents == "continuous" and not isinstance(model, DimensionWiseTokenizer):
        raise ConfigError(
            f"data.pairs.real_latents is continuous but the decoder of a {type(model).__name__} "
            "reads vectors of a codebook; set it to quantized."
        )


def _kept_in(model: Any, dtype: torch.dtype) -> bool:
    """Return whether what decides the codes survives a cast, as that of shipped models does."""
    ours = (p for n, p in model.named_parameters() if n.startswith(model.code_prefixes))
    return all(torch.equal(p, p.to(dtype).to(p.dtype)) for p in ours)


if __name__ == "__main__":
    sys.exit(main())
