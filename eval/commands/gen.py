"""``eval gen``: generated pictures against a reference set."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o

Generated = Annotated[
    list[str],
    o.several("Generated pictures: folders or .npz files (arr_0); LABEL=DIR for another name.",
              "--samples", "-s", metavar="DIR|FILE.npz..."),
]  # fmt: skip
Against = Annotated[
    str,
    typer.Option("--reference", "-r", metavar="FILE.npz|DIR",
                 help="Statistics such as guided-diffusion's, or a folder of real pictures."),
]  # fmt: skip


def gen(
    samples: Generated,
    reference: Against,
    metrics: o.Metrics = None,
    protocol: o.ProtocolName = "adm",
    crop: o.Crop = None,
    size: o.Size = None,
    out: o.Out = None,
    skip_bad: o.SkipBad = False,
    require: o.Require = False,
    batch_size: o.BatchSize = 32,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    columns: o.Columns = None,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Judge generated pictures: gFID, sFID, IS, precision and recall.

    [bold]eval gen --samples samples/ --reference VIRTUAL_imagenet256_labeled.npz[/bold]

    A folder of real pictures is cropped by the protocol; generated ones are taken as they are.
    """
    from eval import registry
    from eval.generated import GeneratedRun
    from eval.launched import own_device, processes
    from eval.session import chosen_protocol
    from eval.set_session import SetSession

    chosen = chosen_protocol(protocol, "image", "adm", crop=crop, size=size)
    names = o.listed(metrics) or list(registry.usual("gen", "image"))
    entries = registry.metrics_named(names, "image", kinds=("distribution",))
    with processes() as here:
        session = SetSession(
            command="gen", here=here, out=out, force=force, batch_size=batch_size, seed=seed
        )
        GeneratedRun(session, chosen, entries, own_device(device), skip_bad).all(
            registry.words(samples), reference
        )
        return session.finish(
            format=format.value, columns=o.listed(columns), require=require
        )
