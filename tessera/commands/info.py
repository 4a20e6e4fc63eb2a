"""``tessera info``: what a token file, a folder of token shards or a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tessera import options as o

What = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[WHAT...]", help="Token files, folders of token shards, models.",
        show_default="the shipped models",
    ),
]  # fmt: skip


def info(what: What = None, json: o.Json = False) -> int:
    """Describe token files, token shards and models; without arguments, list what is shipped.

    [bold]tessera info cat.tok[/bold] or [bold]tessera info one-d-piece-tiny[/bold]
    """
    from tessera import report
    from tok_core.errors import TesseraError

    if not what:
        facts = _installed()
        report.print_json(facts) if json else _print_installed(facts)
        return 0
    described, failed = [], 0
    for name in what:
        try:
            described.append(_describe(name))
        except TesseraError as error:
            report.say(str(error))
            failed = 1
    if json:
        report.print_json(described)
    else:
        for facts in described:
            _print_facts(facts)
    return failed


def _describe(name: str) -> dict[str, Any]:
    path = Path(name).expanduser()
    if path.suffix.lower() == ".tok" or path.is_file():
        return _token_file(path)
    if (path / "index.json").is_file():
        return _token_shards(path)
    return _model(name)


def _token_file(path: Path) -> dict[str, Any]:
    from tok_core.token_file import read_token_file

    file = read_token_file(path)
    facts = {
        "token file": str(path),
        "bytes": path.stat().st_size,
        "payload bytes": file.payload_bytes,
        "codes": " x ".join(str(n) for n in file.codes.shape),
        "stored codes": file.num_codes,
        "bits per code": list(file.bits),
        "original size": " x ".join(str(n) for n in file.extent) or None,
        "policy": file.policy,
        "lengths": list(file.lengths) if file.lengths is not None else None,
        "code hash": file.code_hash,
        "written by": _who_wrote(file.code_hash),
        "trailer": file.trailer,
    }
    if len(file.extent) == 2:
        facts["bits per pixel"] = round(file.bits_per_pixel, 5)
    elif file.sample_rate:
        facts["sample rate"] = file.sample_rate
        facts["seconds"] = round(file.extent[0] / file.sample_rate, 4)
        facts["bits per second"] = round(file.bits_per_second, 1)
    return {key: value for key, value in facts.items() if value is not None}


def _token_shards(path: Path) -> dict[str, Any]:
    from tok_core.token_shards import TokenShards

    shards = TokenShards(path)
    index = shards.index
    facts = {
        "token shards": str(path),
        "samples": shards.length,
        "shards": len(index.shards),
        "bytes": sum(shard.bytes for shard in index.shards),
        "skipped": len(index.skipped),
        "classes": shards.num_classes or None,
        "views": list(shards.views) if len(shards.views) > 1 else None,
        "axes": [f"{axis.name} {axis.minimum}..{axis.size}" for axis in shards.spec.axes],
        "vocabulary": list(shards.spec.vocabulary),
        "code hash": shards.code_hash,
        "written by": _who_wrote(shards.code_hash),
    }
    return {key: value for key, value in facts.items() if value is not None}


def _who_wrote(code_hash: str) -> str | None:
    """Return the shipped model whose stored code hash these tokens carry, without loading one."""
    import json

    from tessera.models import shipped_models

    for name, folder in shipped_models().items():
        card = folder / "hashes.json"
        if card.is_file() and json.loads(card.read_text())["code_hash"].startswith(code_hash):
            return name
    return None


def _model(name: str) -> dict[str, Any]:
    from dataclasses import asdict

    from tessera.models import find_model, load_model
    from tok_core.contract import Tokenizer

    where = find_model(name)
    model = load_model(name)
    spec = getattr(model, "spec", None)
    facts: dict[str, Any] = {
        "model": name,
        "folder": where,
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if Path(where).is_dir():
        facts["bytes"] = sum(f.stat().st_size for f in Path(where).rglob("*") if f.is_file())
    if spec is not None:
        plain = {key: value for key, value in asdict(spec).items() if value not in (None, ())}
        axes = plain.pop("axes")
        facts |= plain
        facts["axes"] = [f"{axis['name']} {axis['minimum']}..{axis['size']}" for axis in axes]
        # A generator only remembers the hash of its tokenizer, if it knows it.
        known = model.code_hash() if isinstance(model, Tokenizer) else model.config.get("code_hash")
        facts["code hash"] = known or "not known"
    return facts | {"weights hash": model.weights_hash()}


def _installed() -> dict[str, Any]:
    from tessera.models import DEFAULT_MODEL, DEFAULT_MODELS, shipped_models
    from tok_core.loading import model_classes

    return {
        "shipped": {name: str(folder) for name, folder in shipped_models().items()},
        "default": DEFAULT_MODEL,
        "defaults": DEFAULT_MODELS,
        "classes": {name: point.value for name, point in sorted(model_classes().items())},
    }


def _print_installed(facts: dict[str, Any]) -> None:
    print("Shipped models (for --model):")
    for name, folder in facts["shipped"].items():
        senses = [sense for sense, default in facts["defaults"].items() if default == name]
        mark = f"  (default for {senses[0]} files)" if senses else ""
        print(f"  {name}{mark}  {folder}")
    if not facts["shipped"]:
        print("  none")
    print("Model classes that a folder or a hub id may hold:")
    for name, where in facts["classes"].items():
        print(f"  {name}  {where}")


def _print_facts(facts: dict[str, Any]) -> None:
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        text = f"{value:,}" if isinstance(value, int) and value > 9999 else value
        print(f"{key.replace('_', ' '):{width}}  {text}")
    print()
