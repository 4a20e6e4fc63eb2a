"""``eval downstream``: what a vision network still sees in reconstructions."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o

Model = Annotated[
    str,
    typer.Option("--model", metavar="NAME",
                 help="transformers:NAME, timm:NAME@FILE, a folder, or MODULE:FUNCTION."),
]  # fmt: skip
Task = Annotated[str, typer.Option("--task", metavar="classify|segment|depth")]
Classes = Annotated[
    int | None,
    typer.Option("--classes", min=1, help="Of a segmenter that does not tell.",
                 show_default=False),
]  # fmt: skip
Align = Annotated[str, typer.Option("--align", metavar="none|median", help="Of depths.")]
Labels = Annotated[bool, typer.Option("--labels", help="The folders of --data are the classes.")]


def downstream(
    tokenizer: o.Tokenizers,
    data: o.Data,
    model: Model,
    task: Task = "classify",
    budgets: o.Budgets = None,
    classes: Classes = None,
    align: Align = "none",
    labels: Labels = False,
    protocol: o.ProtocolName = "photographs",
    crop: o.Crop = None,
    size: o.Size = None,
    out: o.Out = None,
    count: o.Count = None,
    skip_bad: o.SkipBad = False,
    policy: o.PolicyOption = o.Policy.tile,
    batch_size: o.BatchSize = 16,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Show reconstructions to a classifier, segmenter or depth model, over budgets.

    [bold]eval downstream --tokenizer one-d-piece-tiny --budgets 32,64,256 --data photos/
    --model timm:resnet50@resnet50.safetensors[/bold]
    """
    from eval.downstream_run import DownstreamRun
    from eval.launched import own_device, processes
    from eval.session import chosen_protocol
    from eval.set_session import SetSession

    chosen = chosen_protocol(protocol, "image", "photographs", crop=crop, size=size)
    with processes() as here:
        session = SetSession(
            command="downstream", here=here, out=out, force=force, batch_size=batch_size,
            seed=seed,
        )  # fmt: skip
        DownstreamRun(
            session, chosen, own_device(device), model=model, task=task, classes=classes,
            align=align, policy=policy.value,
        ).all(
            tokenizer, data, budgets=o.numbers(budgets, "--budgets"), labels=labels,
            skip_bad=skip_bad, count=count,
        )  # fmt: skip
        return session.finish(format=format.value)
