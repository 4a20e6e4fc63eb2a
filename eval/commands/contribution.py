"""``eval contribution``: what replacing the token at each position changes, as a map."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o

Replacement = Annotated[
    str, typer.Option("--replacement", metavar="neighbour|mean|random", help="By what code.")
]
Delta = Annotated[int, typer.Option("--delta", help="Neighbours to choose from.")]
PerFactor = Annotated[
    bool, typer.Option("--per-factor", help="One branch, level or dimension at a time.")
]
Footprint = Annotated[
    int, typer.Option("--footprint", min=0, metavar="S", help="Also where each acts, S x S cells.")
]
Tokens = Annotated[
    int | None, typer.Option("--tokens", min=1, help="Budget.", show_default="all")
]  # fmt: skip


def contribution(
    tokenizer: o.Tokenizers,
    data: o.Data,
    tokens: Tokens = None,
    replacement: Replacement = "neighbour",
    delta: Delta = 8,
    per_factor: PerFactor = False,
    footprint: Footprint = 0,
    protocol: o.ProtocolName = "photographs",
    crop: o.Crop = None,
    out: o.Out = None,
    count: o.Count = None,
    skip_bad: o.SkipBad = False,
    batch_size: o.BatchSize = 4,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Replace the token at every position in turn and measure the change; draws a heat map.

    [bold]eval contribution --tokenizer one-d-piece-tiny --data photos/ --count 4
    --out results/contribution.json[/bold] writes results/contribution.NAME.png too.
    """
    from eval.contribution_run import ContributionRun
    from eval.launched import own_device, processes
    from eval.session import chosen_protocol
    from eval.set_session import SetSession

    chosen = chosen_protocol(protocol, "image", "photographs", crop=crop)
    with processes() as here:
        session = SetSession(
            command="contribution", here=here, out=out, force=force, batch_size=batch_size,
            seed=seed,
        )  # fmt: skip
        ContributionRun(
            session, chosen, own_device(device), replacement=replacement, delta=delta,
            per_factor=per_factor, footprint=footprint,
        ).all(tokenizer, data, tokens=tokens, skip_bad=skip_bad, count=count)
        return session.finish(format=format.value)
