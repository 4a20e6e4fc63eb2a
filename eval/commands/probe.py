"""``eval probe``: what a linear classifier can read off a tokenizer's tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o

Labelled = Annotated[
    str,
    typer.Option("--data", "-d", metavar="DIR|procedural",
                 help="Folder with one sub-folder for each class, or the procedural pictures."),
]  # fmt: skip
Streams = Annotated[
    list[str] | None,
    o.several("Streams to look at: semantic, pixel, both...", "--stream", metavar="NAME...",
              default="all that there are"),
]  # fmt: skip
Cells = Annotated[
    int,
    typer.Option("--cells", min=1, metavar="N",
                 help="Means over N x N cells of a grid, N pieces of a sequence."),
]  # fmt: skip
TestShare = Annotated[
    float, typer.Option("--test-share", metavar="SHARE", help="Of each class's items.")
]


def probe(
    tokenizer: o.Tokenizers,
    data: Labelled,
    stream: Streams = None,
    cells: Cells = 1,
    test_share: TestShare = 0.25,
    budgets: o.Budgets = None,
    protocol: o.ProtocolName = None,
    crop: o.Crop = None,
    size: o.Size = None,
    out: o.Out = None,
    count: o.Count = None,
    skip_bad: o.SkipBad = False,
    batch_size: o.BatchSize = 16,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Train a linear classifier on token features and print its accuracy, stream by stream.

    [bold]eval probe --tokenizer token-flow-tiny vqgan-tiny --data procedural --out p.json[/bold]

    With a folder of sounds in sub-folders it probes audio codecs.
    """
    from eval.labelled_set import PROCEDURAL
    from eval.launched import own_device, processes
    from eval.probe_run import ProbeRun
    from eval.session import chosen_protocol, sense_of_data
    from eval.set_session import SetSession

    sense = "image" if data == PROCEDURAL else sense_of_data(data)
    chosen = chosen_protocol(
        protocol, sense, "photographs" if sense == "image" else "sounds", crop=crop
    )
    with processes() as here:
        session = SetSession(
            command="probe", here=here, out=out, force=force, batch_size=batch_size, seed=seed
        )
        ProbeRun(
            session, chosen, own_device(device), cells=cells, test_share=test_share, size=size
        ).all(
            tokenizer, data, streams=o.listed(stream) or [],
            budgets=o.numbers(budgets, "--budgets"), skip_bad=skip_bad, count=count,
        )  # fmt: skip
        return session.finish(format=format.value)
