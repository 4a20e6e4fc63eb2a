"""``eval rd``: rate-distortion curves over budgets and qualities."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o

Sense = Annotated[
    str | None,
    typer.Option("--sense", metavar="image|audio", show_default="what --data holds",
                 help="Whether pictures or sounds are measured."),
]  # fmt: skip
Plot = Annotated[
    str | None,
    typer.Option("--plot", metavar="FILE.png", show_default="beside --out",
                 help="Where the curve goes: .png, .svg or .pdf."),
]  # fmt: skip
Over = Annotated[
    str | None, typer.Option("--y", metavar="METRIC", show_default="the first", help="To draw.")
]


def rd(
    tokenizer: o.Tokenizers,
    data: o.Data,
    sense: Sense = None,
    budgets: o.Budgets = None,
    qualities: o.Qualities = None,
    bitrates: o.Bitrates = None,
    metrics: o.Metrics = None,
    protocol: o.ProtocolName = None,
    crop: o.Crop = None,
    size: o.Size = None,
    sample_rate: o.SampleRate = None,
    out: o.Out = None,
    plot: Plot = None,
    y: Over = None,
    count: o.Count = None,
    skip_bad: o.SkipBad = False,
    policy: o.PolicyOption = o.Policy.tile,
    batch_size: o.BatchSize = 16,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    columns: o.Columns = None,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Measure every contestant over its whole range and draw distortion over rate.

    [bold]eval rd --tokenizer one-d-piece-tiny jpeg webp avif --data photos/ --metrics psnr,lpips
    --out results/rd.json[/bold] writes results/rd.png too.
    """
    from eval.launched import processes
    from eval.session import Session, check_target, chosen_protocol, sense_of_data
    from tok_core.command_line import say

    sense = sense_of_data(data) if sense is None else sense
    changes = {"crop": crop, "size": size} if sense == "image" else {"sample_rate": sample_rate}
    default = "photographs" if sense == "image" else "sounds"
    target = plot or (str(out).removesuffix(".json") + ".png" if out else "rate_distortion.png")
    check_target(target, force=force, endings=(".png", ".svg", ".pdf"))
    session = Session(
        command="rd", sense=sense, tokenizers=tokenizer, data=data, metrics=metrics or [],
        protocol=chosen_protocol(protocol, sense, default, **changes), sweep=True,
        budgets=o.numbers(budgets, "--budgets"), qualities=o.numbers(qualities, "--qualities"),
        bitrates=o.numbers(bitrates, "--bitrates"), out=out, count=count, skip_bad=skip_bad,
        ground_truth=False, policy=policy.value, batch_size=batch_size, device=device, seed=seed,
        columns=o.listed(columns), format=format.value, force=force,
    )  # fmt: skip
    with processes() as here:
        result = session.measure(here)
        if not here.main:
            return 0
        from eval.plots import plot as draw

        drawn = draw([result], target, kind="rd", force=force, y=y)
        say(f"wrote {drawn}")
        return session.finish(result)
