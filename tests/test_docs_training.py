"""The training playbook and the evaluation page say what is there: commands, options, names."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
import shlex
import typing
from pathlib import Path
from typing import Any

import pytest
import torch

from audio_tok.train import AudioRun
from audio_tok.wav_tokenizer_config import AudioQuantizerOptions
from eval.cli import app
from eval.protocol import PROTOCOLS, Protocol
from eval.registry import entries
from generators.post_train import ImagePostTraining
from generators.train import GeneratorRun
from tok_core.loading import model_class, model_classes
from tok_core.perturbation_config import PerturbationConfig
from tok_core.run_config import load_config
from tok_core.tail_drop import TailDropOptions
from tok_core.training.model_building import build_model
from vision_tok.robus_tok_config import ResidualOptions, UnitOptions
from vision_tok.token_flow_config import SharedIndexOptions
from vision_tok.train import ImageRun, main
from vision_tok.vqgan_config import MultiScaleOptions, SideSizes, VectorOptions

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOK = ROOT / "docs" / "training.md"
OUTSIDE = ROOT / "docs" / "adding_a_tokenizer.md"
JUDGE = ROOT / "docs" / "evaluation.md"
RUNS: dict[str, Any] = {
    "vision_tok.train": ImageRun, "audio_tok.train": AudioRun, "generators.train": GeneratorRun,
    "generators.post_train": ImagePostTraining,
}  # fmt: skip
# Sections of recipes and of the objects inside, whose keys the pages name on their own.
OPTIONS = (
    VectorOptions, MultiScaleOptions, SharedIndexOptions, UnitOptions, ResidualOptions,
    AudioQuantizerOptions, TailDropOptions, PerturbationConfig, SideSizes,
)  # fmt: skip


def commands(page: Path) -> list[list[str]]:
    """Return the training commands of a page's shell blocks, as words without what launches."""
    blocks = re.findall(r"^```(?:sh|shell)\n(.*?)^```", page.read_text(), re.M | re.S)
    found = []
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "-m" in words and words[words.index("-m") + 1] in RUNS:
            found.append(words[words.index("-m") + 1 :])
    return found


def value_of(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


COMMANDS = [words for page in (PLAYBOOK, OUTSIDE) for words in commands(page)]


def test_pages_show_commands() -> None:
    assert len(commands(PLAYBOOK)) >= 9 and len(commands(OUTSIDE)) >= 3
    assert {words[0] for words in COMMANDS} >= {"vision_tok.train", "audio_tok.train"}


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:70])
def test_every_command_is_a_legal_run(words: list[str]) -> None:
    program, *rest = words
    options = {word for word in rest if word.startswith("--")}
    assert options <= {"--config", "--data", "--out", "--set", "--resume"}
    (recipe,) = value_of(rest, "--config")
    overrides = value_of(rest, "--set")
    overrides += [f"data.path={json.dumps(path)}" for path in value_of(rest, "--data")]
    config = load_config(RUNS[program], ROOT / recipe, overrides)
    # Generators are built from their data, and outsiders are not installed here.
    tokenizer = program in ("vision_tok.train", "audio_tok.train")
    if tokenizer and config.model.from_ is None and config.model.class_ in model_classes():
        with torch.device("meta"):
            build_model(config.model)


@functools.cache
def keys(cls: Any, prefix: str = "") -> frozenset[str]:
    """Return the dotted keys of a run config and of every dataclass inside."""
    found: set[str] = set()
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{prefix}{field.name.rstrip('_')}"
        found.add(name)
        inner = [hints[field.name], *typing.get_args(hints[field.name])]
        for one in inner:
            if dataclasses.is_dataclass(one):
                found |= keys(one, f"{name}.")
    return frozenset(found)


def spans(page: Path) -> set[str]:
    """Return what stands in backticks outside of blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return set(re.findall(r"`([^`\n]+)`", text))


def test_options_that_are_named_exist() -> None:
    legal = frozenset().union(*(keys(run) for run in RUNS.values()))
    sections = {key.partition(".")[0] for key in legal}
    inner = {field.name for kind in OPTIONS for field in dataclasses.fields(kind)}
    inner |= {
        name for cls in model_classes() for name in inspect.signature(model_class(cls)).parameters
    }
    dotted = {
        match for span in spans(PLAYBOOK) if (match := re.match(r"[a-z_]+(\.[a-z_]+)+", span))
    }
    checked = 0
    for match in dotted:
        key = match.group()
        if key.partition(".")[0] not in sections or key.endswith((".train", ".yaml")):
            continue
        checked += 1
        if key.startswith("model.config."):
            assert key.rpartition(".")[2] in inner, key
        else:
            assert key in legal, key
    assert checked > 25
    for span in spans(PLAYBOOK):  # `l2_normalize: true` and the like
        name = re.match(r"([a-z_0-9]+): ", span)
        if name and name.group(1) not in sections | {"extends"}:
            assert name.group(1) in inner | {key.rpartition(".")[2] for key in legal}, span


def test_logged_names_are_logged(tmp_path: Path) -> None:
    settings = {
        "train.device": "cpu", "log.tracker": "none", "train.steps": 12, "log.every": 1,
        "perturbation": "{beta: 0.5, delta: 8}", "objective.l2_weight": 1.0,
        "model.config.tail_drop": "{joint: true}",
    }  # fmt: skip
    words = [f"--set={key}={value}" for key, value in settings.items()]
    recipe = str(ROOT / "assets" / "configs" / "smoke.yaml")
    assert main(["--config", recipe, "--data", "procedural", "--out", str(tmp_path), *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = {name for line in lines for name in line}
    table = PLAYBOOK.read_text().partition("## What is logged")[2].partition("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    # Other recipes log these: a teacher, another discriminator, another network or sense.
    elsewhere = {"loss/semantic", "loss/contrastive", "adaptive_weight", "clips_per_second"}
    elsewhere |= {"validation/psnr"}  # of codes without prefixes; this one has psnr_16 ...
    assert len(named) > 20
    for name in named - elsewhere:
        if name.startswith("/"):
            name = f"discriminator{name}"
        start = name.removesuffix("...").replace("psnr_64", "psnr_")
        assert any(one == name or one.startswith(start) for one in logged) or (
            name == "discriminator/vanilla"
        ), name


def test_the_evaluation_page_names_everything() -> None:
    named = spans(JUDGE)
    missing = set(entries()) - named
    assert not missing, f"docs/evaluation.md does not name {sorted(missing)}"
    assert set(PROTOCOLS) <= named
    fields = {field.name for field in dataclasses.fields(Protocol)} - {"name", "sense", "source"}
    whole = {"reference_sha256", "extractor_sha256"}  # told beside what they are hashes of
    assert fields - whole <= named
    verbs = {command.name for command in app.registered_commands}
    assert verbs <= named, verbs - named
