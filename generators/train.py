"""Train a generator over the tokens of a tokenizer.

    tessera tokenize photos/ tokens/
    accelerate launch -m generators.train --config recipe.yaml --data tokens/
    python -m generators.train --config recipe.yaml --set data.tokenizer=runs/tokenizer/model \\
        --out runs/mine --resume

Shape and vocabulary of the tokens, the tokenizer's code hash and the number of classes follow from
the data and are written into the run's config.yaml.  The run folder is that of `vision_tok.train`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

from generators.contract import Generator, described, read_spec
from generators.guidance import Guidance
from generators.token_data import TokenDataConfig, facts_of, open_tokens
from generators.token_objective import TokenObjective, TokenObjectiveConfig
from generators.validation import GeneratorMonitor
from tok_core.errors import ConfigError
from tok_core.loading import load, model_class
from tok_core.strict_loading import read_config
from tok_core.token_spec import TokenSpec
from tok_core.training.launch import Sense, TrainingRun, command, fixed_samples, train_run


@dataclass(frozen=True, kw_only=True)
class GeneratorRun(TrainingRun):
    """Everything a generator's training run is made of; a recipe states it.

    Attributes:
        objective: filled in from the data, but for RAR's ``random_order``.
        validation_samples: scored at fixed ids. shown: samples drawn for the tracker, 0 for none.
        guidance: scale of those samples.
    """

    name: str = "generator-run"
    data: TokenDataConfig
    objective: TokenObjectiveConfig = field(default_factory=TokenObjectiveConfig)
    validation_samples: int = 64
    shown: int = 16
    guidance: float = 1.0


def train(config: GeneratorRun, folder: Path, *, resume: bool = False) -> Path | None:
    """Run one training; return the folder of the exported model, None when interrupted.

    Args:
        config: as `load_config` makes it.
        folder: run folder, made when missing.
        resume: continue from its newest checkpoint (from the start when there is none).

    Raises:
        TesseraError: anything a user can put right, in one sentence.

    Example:
        >>> train(load_config(GeneratorRun, "recipe.yaml"), Path("runs/a"))  # doctest: +SKIP
    """
    return train_run(_sense(), config, folder, resume=resume)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: return 0, 2 for a user's mistake (one sentence), 130 when interrupted."""
    return command(_sense(), arguments)


def completed(config: GeneratorRun) -> GeneratorRun:
    """Return the config with what follows from the data: spec, code hash, classes.

    A trained generator (``model.from``) keeps what it knows, but goes on at the sizes of the data:
    positions that are computed, as LlamaGen's are, take any, and learned ones are refused.

    Raises:
        ConfigError: the recipe says something else. TokenError: shards of another tokenizer.
    """
    facts = facts_of(config.data)
    told: dict[str, Any] = {
        "spec": facts.spec.to_json(), "classes": facts.classes, "code_hash": facts.code_hash
    }  # fmt: skip
    if facts.caption_width is not None:
        told |= {"caption_width": facts.caption_width, "caption_length": config.data.captions}
        _check_captions(config.model.class_)
    given = config.model.config
    for name, value in told.items():
        if given.get(name, value) != value:
            raise ConfigError(
                f"model.config.{name} is {given[name]} but the data say {value}; leave it out."
            )
    model = config.model
    if model.from_ is None:
        model = replace(model, config={**given, **told})
    elif _other_sizes(model.from_, facts.spec):
        model = replace(model, config={**given, "spec": told["spec"]})
    objective = replace(
        config.objective,
        tokenizer=config.data.tokenizer if config.data.signals is not None else None,
        conditional=facts.classes > 0,
    )
    return replace(config, model=model, objective=objective)


def _other_sizes(folder: str, spec: TokenSpec) -> bool:
    """Whether a trained generator's tokens differ from the data's in their sizes alone."""
    given = read_config(folder, {}).get("spec")
    if given is None:
        return False
    theirs = read_spec(given)

    def kind(one: TokenSpec) -> tuple[Any, ...]:
        return one.modality, one.vocabulary, one.scales, [axis.name for axis in one.axes]

    return theirs.axes != spec.axes and kind(theirs) == kind(spec)


def _check_captions(name: str | None) -> None:
    """Refuse captions for a class that takes none."""
    if name is not None and "caption_width" not in signature(model_class(name).__init__).parameters:
        raise ConfigError(
            f"data.captions is given but a {name} takes labels; train a LlamaGen, or set it to 0."
        )


def check_model(config: GeneratorRun, model: Any) -> None:
    """Refuse a model that is no generator, or one of other tokens (``model.from``)."""
    if not isinstance(model, Generator):
        raise ConfigError(
            f"{type(model).__name__} is no generator; set model.class to one such as LlamaGen."
        )
    if config.model.from_ is not None:
        facts, known = facts_of(config.data), model.config.get("code_hash")
        theirs = facts.spec
        if (model.spec.axes, model.spec.vocabulary) != (theirs.axes, theirs.vocabulary):
            raise ConfigError(
                f"model.from was made for {described(model.spec)} and the data hold "
                f"{described(theirs)}; start from a generator of the same tokenizer."
            )
        if known is not None and known != facts.code_hash:
            raise ConfigError(
                f"model.from was trained on tokens of code hash {known[:16]} and the data have "
                f"{facts.code_hash[:16]}; start from a generator of the same tokenizer."
            )
        if model.classes < facts.classes:
            raise ConfigError(
                f"model.from knows {model.classes} classes and the data {facts.classes}; start "
                "from one that knows them all, or set data.classes to 0."
            )
    if config.data.tokenizer is not None:
        model.attach(load(config.data.tokenizer))
    elif model.consumes_values:
        raise ConfigError(
            f"a {type(model).__name__} takes values from its tokenizer's tables; set "
            "data.tokenizer to the model that made the tokens."
        )


def _sense() -> Sense:
    return Sense(
        program="generators.train",
        description="Train a generator over tokens from a recipe.",
        data_help="token shards, or what data.signals reads",
        run=GeneratorRun,
        open_source=open_tokens,
        build_objective=TokenObjective,
        make_monitor=_monitor,
        units="samples",
        check=check_model,
        complete=completed,
    )


def _monitor(config: GeneratorRun, objective: TokenObjective) -> GeneratorMonitor:
    source = open_tokens(config.data, validation=True)
    samples = fixed_samples(source, max(1, config.validation_samples), "sample")
    painter = config.data.tokenizer if config.shown > 0 else None
    return GeneratorMonitor(
        samples, objective, tokenizer=None if painter is None else load(painter),
        shown=config.shown, guidance=Guidance(scale=config.guidance),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
