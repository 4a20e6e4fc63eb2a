"""``tessera demo``: photographs to tokens and back, with pictures, a table and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera import options as o

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
Pictures = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PICTURE...]", help="Your own pictures.", show_default="the held-out photographs"
    ),
]


def demo(
    pictures: Pictures = None,
    output: Output = Path("tessera_demo"),
    model: o.Model = None,
    tokens: Budgets = None,
    policy: o.PolicyOption = o.Policy.tile,
    device: o.Device = "auto",
    batch_size: o.BatchSize = 16,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Encode photographs that no model was trained on, at several budgets, and show the result.

    Writes token files, decoded pictures, a grid, a rate-distortion plot and results.json.
    """
    import json as json_module

    from tessera import files, report
    from tessera.demo_images import image_demo
    from tok_core.atomic_write import write_bytes
    from tok_core.errors import ConfigError, TesseraError

    budgets = None
    if tokens is not None:
        words = [word.strip() for word in tokens.split(",")]
        if not all(word.isdigit() and int(word) for word in words):
            raise ConfigError(f"--tokens '{tokens}' is no list of counts; write 16,64,256.")
        budgets = sorted({int(word) for word in words})
    results = output / "results.json"
    if results.exists() and not force:
        raise TesseraError(
            f"'{output}' holds the results of another demo; nothing is overwritten without "
            "--force (or give another --output)."
        )
    files.make_folder(output)
    sections = [
        image_demo(
            output, pictures=pictures, model=model, budgets=budgets, policy=policy.value,
            device=device, batch_size=batch_size,
        )
    ]  # fmt: skip
    document = {section.title: section.facts for section in sections}
    text = json_module.dumps(report.finite(document), indent=2) + "\n"
    write_bytes(results, text.encode(), force=True)
    if json:
        report.print_json(document)
    for section in sections:
        if not json:
            report.print_table(section.title, section.rows, section.columns)
        for file in [*section.files, results]:
            report.say(f"wrote {file}")
    return 0
