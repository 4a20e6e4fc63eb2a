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
from pathlib import Path
from typing import Any

from generators.contract import Generator, described
from generators.guidance import Guidance
from generators.token_data import TokenDataConfig, facts_of, open_tokens
from generators.token_objective import TokenObjective, TokenObjectiveConfig
from generators.validation import GeneratorMonitor
from tok_core.errors import ConfigError
from tok_core.loading import load
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

    Raises:
        ConfigError: the recipe says something else. TokenError: shards of another tokenizer.
    """
    facts = facts_of(config.data)
    told = {
        "spec": facts.spec.to_json(), "classes": facts.classes, "code_hash": facts.code_hash
    }  # fmt: skip
    given = config.model.config
    for name, value in told.items():
        if given.get(name, value) != value:
            raise ConfigError(
                f"model.config.{name} is {given[name]} but the data say {value}; leave it out."
            )
    model = config.model
    if model.from_ is None:
        model = replace(model, config={**given, **told})
    objective = replace(
        config.objective,
        tokenizer=config.data.tokenizer if config.data.signals is not None else None,
        conditional=facts.classes > 0,
    )
    return replace(config, model=model, objective=objective)


def check_model(config: GeneratorRun, model: Any) -> None:
    """Refuse a model that is no generator, or one of other tokens (``model.from``)."""
    if not isinstance(model, Generator):
        raise ConfigError(
            f"{type(model).__name__} is no generator; set model.class to one such as LlamaGen."
        )
    if config.model.from_ is not None:
        theirs = facts_of(config.data).spec
        if (model.spec.axes, model.spec.vocabulary) != (theirs.axes, theirs.vocabulary):
            raise ConfigError(
                f"model.from was made for {described(model.spec)} and the data hold "
                f"{described(theirs)}; start from a generator of the same tokenizer."
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
