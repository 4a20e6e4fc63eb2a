"""``eval compare``: several score files in one table, if they can stand together."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o

Files = Annotated[
    list[str], typer.Argument(metavar="FILE.json...", help="Score files.", show_default=False)
]
Allow = Annotated[
    list[str] | None,
    o.several("Protocol fields that may differ; each way to measure gets a column of its own.",
              "--allow", metavar="FIELD..."),
]  # fmt: skip
Target = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="FILE", show_default="the screen",
                 help="Write the table: .csv, .md, .tex or .txt."),
]  # fmt: skip
Spread = Annotated[
    str, typer.Option("--spread", metavar="interval|std", help="Show beside means.")
]


def compare(
    files: Files,
    columns: o.Columns = None,
    allow: Allow = None,
    spread: Spread = "",
    out: Target = None,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Put score files into one table (one for pictures and one for sounds, where there are
    both); scores of unlike protocols are refused, by field.

    [bold]eval compare results/*.json --columns psnr,lpips/vgg,bpp --format latex[/bold]
    """
    from eval import table
    from eval.compare import by_sense
    from eval.compare import compare as compared
    from eval.session import check_target, column_order
    from tok_core.atomic_write import write_bytes
    from tok_core.command_line import say

    check_target(out, force=force, endings=tuple(table.ENDINGS))
    layouts = [
        compared(part, columns=kept, allow=o.listed(allow) or (), spread=spread)
        for part, kept in by_sense(o.globbed(files), column_order(o.listed(columns)))
    ]
    if out is not None:
        draw = table.format_named(table.ENDINGS["." + out.rpartition(".")[2]])
        write_bytes(out, "\n".join(map(draw, layouts)).encode(), force=force)
        say(f"wrote {out}")
    elif format is o.Format.rich:
        for layout in layouts:
            table.print_layout(layout)
    else:
        print("\n".join(map(table.format_named(format.value), layouts)), end="")
    return 0
