"""Recipes: extends, --set, and one sentence for every mistake."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tok_core.errors import ConfigError
from tok_core.run_config import flatten, load_config, to_mapping, to_yaml


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A nested section, with a key that is a Python keyword."""

    steps: int = 3
    rate: float = 1e-4
    class_: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A whole config."""

    inner: Inner
    maybe: Inner | None = None
    free: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_extends_states_only_what_differs(tmp_path: Path) -> None:
    _write(tmp_path, "base.yaml", "inner: {steps: 5, class: A}\nfree: {x: {y: 1, z: 2}}\n")
    recipe = _write(tmp_path, "new.yaml", "extends: base.yaml\nfree: {x: {y: 3}}\nnames: [a]\n")
    config = load_config(Outer, recipe, ["inner.rate=1e-3", "maybe.steps=7"])
    assert config.inner == Inner(steps=5, rate=1e-3, class_="A")
    assert config.maybe == Inner(steps=7)
    assert config.free == {"x": {"y": 3, "z": 2}}
    assert config.names == ("a",)


def test_resolved_config_reads_back(tmp_path: Path) -> None:
    config = Outer(inner=Inner(class_="A"), free={"deep": [1, {"k": None}]}, names=("a", "b"))
    assert load_config(Outer, _write(tmp_path, "all.yaml", to_yaml(config))) == config
    assert flatten(to_mapping(config))["inner.class"] == "A"


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("inner: {stepz: 1}", [], ["inner.stepz", "did you mean 'steps'"]),
        ("inner: {clas: x}", [], ["did you mean 'class'"]),
        ("innr: {}", [], ["unknown key 'innr'", "did you mean 'inner'"]),
        ("inner: {qqqqqq: 1}", [], ["legal keys are steps, rate, class"]),
        ("inner: {steps: many}", [], ["'inner.steps'", "'many'", "--set inner.steps"]),
        ("names: [a]", [], ["'inner' is missing"]),
        ("inner: {}", ["inner.steps"], ["--set got 'inner.steps'", "="]),
        ("inner: {steps: 1}", ["inner.steps.x=2"], ["'inner.steps' holds 1"]),
        ("inner: {}", ["mybe.steps=2"], ["did you mean 'maybe'"]),
        ("inner: [", [], ["line", "not YAML"]),
        ("- 1", [], ["mapping"]),
        ("extends: gone.yaml", [], ["gone.yaml", "no file"]),
        ("extends: recipe.yaml", [], ["extends itself"]),
    ],
)
def test_mistakes_are_sentences(
    tmp_path: Path, text: str, overrides: list[str], words: list[str]
) -> None:
    path = _write(tmp_path, "recipe.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    _write(tmp_path, "smoke.yaml", "inner: {}")
    with pytest.raises(ConfigError, match="did you mean 'smoke.yaml'"):
        load_config(Outer, tmp_path / "smok.yaml")
