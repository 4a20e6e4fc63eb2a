"""Pages of models: each class and recipe has one, what they name exists, what they show runs."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

from generators.contract import fixed_spec
from tests.generators.test_generator_recipes import SIZES
from tests.test_readme import blocks
from tok_core.loading import GROUP, load, model_class
from tok_core.run_config import read_recipe
from tok_core.token_spec import TokenSpec
from vision_tok.token_bridge import TokenBridgeTokenizer

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FLOORS = "tok_core|vision_tok|audio_tok|generators|eval|tessera"
PAGES = sorted(page for page in (DOCS / "models").glob("*.md") if page.name != "README.md")
LINKED = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NAMING = [DOCS / "architecture.md", DOCS / "models" / "README.md", *PAGES]
SECTIONS = [
    "Data flow", "Checkpoints", "Recipes", "Example", "Measured", "Options worth knowing", "Limits"
]  # fmt: skip
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
RECIPES = {path.stem: path for path in sorted((ROOT / "assets" / "configs").glob("*.yaml"))}
SNIPPETS = [(page, i) for page in PAGES for i in range(len(blocks(page, "python")))]


def named(page: Path) -> set[str]:
    """Return what stands in backticks on a page, outside its blocks of code."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", prose))


def section(page: Path, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def ids(value: Any) -> Any:
    return value.stem if isinstance(value, Path) else value


# -- nothing is left out -------------------------------------------------------------------------


def test_every_class_has_a_page() -> None:
    packages = FLOORS.split("|")
    ours = {p.name for p in entry_points(group=GROUP) if p.module.split(".")[0] in packages}
    assert len(ours) > 10
    for on_pages in (set().union(*map(named, PAGES)), named(DOCS / "models" / "README.md")):
        assert sorted(ours - on_pages) == []


def test_every_recipe_is_on_a_page() -> None:
    assert len(RECIPES) > 10
    assert sorted(RECIPES.keys() - set().union(*map(named, PAGES))) == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_page_has_its_sections_and_is_listed(page: Path) -> None:
    assert re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE) == SECTIONS
    assert f"]({page.name})" in (DOCS / "models" / "README.md").read_text()
    assert 40 <= len(page.read_text().splitlines()) <= 90
    assert blocks(page, "python")


# -- what is named exists ------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the fragments that GitHub gives the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, fragment in LINK.findall(page.read_text()):
        place = page.parent / target if target else page
        assert place.exists(), target
        assert not fragment or fragment in anchors(place), f"{target}#{fragment}"


@pytest.mark.parametrize("page", NAMING, ids=ids)
def test_files_and_names_exist(page: Path) -> None:
    for words in named(page):
        for path in re.findall(rf"(?:^|(?<=\s))((?:{FLOORS}|benchmarks|examples)/[\w/.-]*)", words):
            assert (ROOT / path).exists(), path
        for command in re.findall(r"^python (\w+/\w+\.py)", words):
            assert (ROOT / command).is_file(), command
        if re.fullmatch(rf"(?:{FLOORS})(?:\.\w+)+", words):
            assert resolved(words) is not None, words
    for recipe in re.findall(r"^\| `([\w-]+)` \|", section(page, "Recipes"), re.MULTILINE):
        assert recipe in RECIPES, recipe


def resolved(words: str) -> Any:
    """Return what a dotted name stands for; None where there is nothing of that name."""
    parts = words.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name, None)
        return found
    return None


# -- numbers -------------------------------------------------------------------------------------


def stated() -> Iterator[tuple[str, str]]:
    """Yield (recipe, millions of parameters as written) of every page."""
    for page in PAGES:
        rows = section(page, "Recipes")
        yield from re.findall(r"^\| `([\w-]+)` \|.*\| ([\d.,]+) M \|$", rows, re.MULTILINE)


STATED = list(stated())


def parameters(recipe: str) -> int:
    """Return the count of a recipe's model, built on meta; a generator's over its own tokens."""
    if not recipe.startswith("generator-"):
        return count_of(json.dumps(model_of(recipe)))
    published = recipe.removeprefix("generator-")
    if published in SIZES:  # counted in the test of these recipes
        return SIZES[published].exact
    data, model = read_recipe(RECIPES[recipe])["data"], model_of(recipe)
    spec, sizes = spec_of(data["tokenizer"]), None
    if spec.modality == "audio":
        frames = data["signals"]["segment"] / (spec.input_rate or 1) * (spec.token_rate or 0)
        sizes = (spec.factors, round(frames))
    told = {"spec": fixed_spec(spec, sizes).to_json(), "classes": data.get("classes", 1000)}
    return count_of(json.dumps(model | {"config": model["config"] | told}))


def spec_of(tokenizer: str) -> TokenSpec:
    """Return what a generator recipe's tokens look like."""
    if tokenizer == "models/kl16":  # imported by users; its sizes are the class's own
        with torch.device("meta"):
            return TokenBridgeTokenizer().spec
    return load(ROOT / tokenizer).spec


def model_of(recipe: str) -> dict[str, Any]:
    """Return the part of a recipe that says what its model is."""
    return dict(read_recipe(RECIPES[recipe]).get("model", {}))


@cache  # sizes of several recipes are those of one model
def count_of(model: str) -> int:
    """Build a recipe's model on meta and count its parameters."""
    given = json.loads(model)
    with torch.device("meta"):
        built = model_class(given["class"])(**given.get("config", {}))
    return sum(parameter.numel() for parameter in built.parameters())


@pytest.mark.parametrize(("recipe", "millions"), STATED, ids=ids)
def test_parameter_counts(recipe: str, millions: str) -> None:
    digits = len(millions.partition(".")[2])
    assert f"{parameters(recipe) / 1e6:,.{digits}f}" == millions


def test_every_size_is_stated_once() -> None:
    names = [recipe for recipe, _ in STATED]
    assert len(names) == len(set(names))
    unstated = [model_of(recipe) for recipe in RECIPES.keys() - set(names)]
    for model in unstated:
        # Others go on from a model that stands elsewhere, or need a library that is optional.
        kind = model.get("config", {}).get("semantic_encoder", {}).get("kind")
        assert "class" not in model or kind == "timm", model


def numbers_of(plain: Any) -> Iterator[float]:
    """Yield every number of a JSON value."""
    if isinstance(plain, dict | list):
        for part in plain.values() if isinstance(plain, dict) else plain:
            yield from numbers_of(part)
    elif isinstance(plain, int | float) and not isinstance(plain, bool):
        yield float(plain)


def shown(page: Path) -> tuple[list[str], str, list[float]]:
    """Return the numbers under "Measured", and text and values of the files linked there."""
    text = section(page, "Measured")
    words = re.sub(r"\]\([^)]*\)|`[^`]*`", "", text)
    files = [page.parent / target for target, _ in LINK.findall(text) if target]
    results = [json.loads(f.read_text()) for f in files if f.suffix == ".json"]
    values = list(numbers_of(results))
    prose = "\n".join(f.read_text() for f in files if f.suffix == ".md")
    return re.findall(r"(?<![\w.,-])\d+\.\d+(?![\w.])", words), prose, values


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_measured_numbers_are_in_the_linked_files(page: Path) -> None:
    found, prose, values = shown(page)
    for number in found:
        digits = len(number.partition(".")[2])
        near = (float(number), 0.5001 * 10**-digits)
        known = any(abs(v * scale - near[0]) <= near[1] for v in values for scale in (1, 100))
        assert known or re.search(rf"(?<![\d.]){re.escape(number)}", prose), number


# -- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "index"), SNIPPETS, ids=ids)
def test_example(page: Path, index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In this process: fifteen fresh ones would spend a minute on imports alone.
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        exec(compile(blocks(page, "python")[index], page.name, "exec"), {"__name__": page.stem})
