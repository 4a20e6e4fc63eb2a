"""``tessera demo``: photographs and sentences to tokens and back, with pictures and tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera import options as o

if TYPE_CHECKING:
    from collections.abc import Callable

    from tessera.demo_images import Section

Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for everything it makes.")
]
Budgets = Annotated[
    str | None,
    typer.Option(
        "--tokens", "-t", metavar="N,N,...", help="Budgets, tokens per network input.",
        show_default="an eighth, a quarter, half and all",
    ),
]  # fmt: skip
Files = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE...]", help="Your own pictures and sounds.",
        show_default="the held-out photographs and sentences",
    ),
]  # fmt: skip
PolicyOption = Annotated[
    o.Policy,
    typer.Option("--policy", "-p", help="For pictures of another size than the network's."),
]


def demo(
    files: Files = None,
    output: Output = Path("tessera_demo"),
    model: o.Model = None,
    tokens: Budgets = None,
    policy: PolicyOption = o.Policy.tile,
    device: o.Device = "auto",
    batch_size: o.BatchSize = 16,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Encode photographs and sentences that no model was trained on, and show the result.

    Writes token files, decoded pictures and sounds, a grid, a rate-distortion plot, spectrograms,
    generated pictures and speech, and results.json.
    """
    from tessera.files import check_inputs, make_folder
    from tok_core.errors import TesseraError

    budgets = _budgets(tokens)
    results = output / "results.json"
    if results.exists() and not force:
        raise TesseraError(
            f"'{output}' holds the results of another demo; nothing is overwritten without "
            "--force (or give another --output)."
        )
    check_inputs(files or [])
    make_folder(output)
    chosen = _senses(files, model)
    sections = []
    if "image" in chosen:
        from tessera.demo_images import image_demo

        sections.append(
            image_demo(
                output, pictures=chosen["image"], model=model, budgets=budgets,
                policy=policy.value, device=device, batch_size=batch_size,
            )
        )  # fmt: skip
    if "audio" in chosen:
        from tessera.demo_audio import audio_demo

        sections.append(
            audio_demo(
                output, sounds=chosen["audio"], model=model, device=device, batch_size=batch_size
            )
        )
    if not files and model is None:
        sections += _generated(output, list(chosen), device)
    _show(sections, results, as_json=json)
    return 0


def _generated(output: Path, senses: list[str], device: str) -> list[Section]:
    """Return what the shipped generators of these senses draw."""
    from tessera import demo_generated, report
    from tessera.generator_pipeline import DEFAULT_GENERATOR

    makers: dict[str, tuple[str, Callable[..., Section]]] = {
        "image": (DEFAULT_GENERATOR, demo_generated.generated_demo),
        "audio": (demo_generated.SPEECH_GENERATOR, demo_generated.spoken_demo),
    }
    sections = []
    for sense in senses:
        generator, draw = makers[sense]
        reason = demo_generated.why_not(generator)
        if reason is None:
            sections.append(draw(output, device=device))
        else:
            report.say(reason)
    return sections


def _show(sections: list[Section], results: Path, *, as_json: bool) -> None:
    """Write results.json, and print the tables or the same document."""
    import json

    from tessera import report
    from tok_core.atomic_write import write_bytes

    document = {section.title: section.facts for section in sections}
    text = json.dumps(report.finite(document), indent=2) + "\n"
    write_bytes(results, text.encode(), force=True)
    if as_json:
        report.print_json(document)
    for section in sections:
        if not as_json:
            report.print_table(section.title, section.rows, section.columns)
        for file in [*section.files, results]:
            report.say(f"wrote {file}")


def _budgets(tokens: str | None) -> list[int] | None:
    """Return the counts of ``--tokens``, rising; None for the usual ones."""
    from tok_core.errors import ConfigError

    if tokens is None:
        return None
    words = [word.strip() for word in tokens.split(",")]
    if not all(word.isdigit() and int(word) for word in words):
        raise ConfigError(f"--tokens '{tokens}' is no list of counts; write 16,64,256.")
    return sorted({int(word) for word in words})


def _senses(files: list[str] | None, model: str | None) -> dict[str, list[str] | None]:
    """Return the senses to show and the user's files of each; None are the packaged ones.

    Raises:
        TesseraError: only sounds are given and they cannot be shown.
    """
    from tessera import report
    from tessera.demo_audio import why_not
    from tessera.modality import CODECS
    from tessera.models import load_tokenizer
    from tessera.senses import files_of
    from tok_core.errors import TesseraError

    chosen: dict[str, list[str] | None] = dict.fromkeys(CODECS)
    if files:
        chosen = {sense: found for sense in CODECS if (found := files_of(sense, files))}
        chosen = chosen or {"image": files}  # whose own demo says what is wrong with them
    if model is not None and len(chosen) > 1:
        sense = load_tokenizer(model).spec.modality
        chosen = {sense: chosen.get(sense)}
    reason = why_not(model) if "audio" in chosen else None
    if reason is not None:
        del chosen["audio"]
        if not chosen:
            raise TesseraError(f"{reason}.")
        report.say(reason)
    return chosen
