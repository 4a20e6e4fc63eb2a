"""``eval published``: a published table as a score file, to stand beside one's own."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="dates-speech.", show_default=False)
]
Where = Annotated[
    list[str] | None,
    o.several("Kinds of tokenizer, such as quantization=RVQ streamable=yes.",
              "--where", metavar="AXIS=WORD...", default="all"),
]  # fmt: skip
Target = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="FILE.json", show_default="only the table",
                 help="Write the scores."),
]  # fmt: skip


def published(
    name: Name,
    where: Where = None,
    out: Target = None,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Show a table as its authors published it, or write it as scores for report and compare.

    [bold]eval published dates-speech -o results/dates.json[/bold]
    """
    from eval import table
    from eval.published_scores import published_scores
    from eval.registry import words
    from tok_core.command_line import say

    file = published_scores(name, where=words(where or []))
    if format is o.Format.rich:
        table.print_table([file], columns="dates")
    else:
        print(table.render([file], format=format.value, columns="dates"), end="")
    if out is not None:
        file.write(out, force=force)
        say(f"wrote {out}")
    return 0
