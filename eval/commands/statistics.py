"""``eval statistics``: the mean and covariance of a set's features, to compare with later."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o

Pictures = Annotated[
    str, typer.Option("--data", "-d", metavar="DIR|FILE.npz", help="The pictures.")
]  # fmt: skip
Target = Annotated[str, typer.Option("--out", "-o", metavar="FILE.npz", help="Where to write.")]
Network = Annotated[
    str, typer.Option("--network", metavar="inception-fid|procedural-v1", help="Whose features.")
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="FILE", show_default="searched",
                 help="Of the FID Inception, when it is not in a usual place."),
]  # fmt: skip
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="train|val|...", show_default="the protocol's",
                 help="Of which data set split; rFID refuses statistics of training pictures."),
]  # fmt: skip


def statistics(
    data: Pictures,
    out: Target,
    network: Network = "inception-fid",
    weights: Weights = None,
    split: Split = None,
    protocol: o.ProtocolName = "adm",
    crop: o.Crop = None,
    size: o.Size = None,
    skip_bad: o.SkipBad = False,
    batch_size: o.BatchSize = 32,
    device: o.Device = "auto",
    force: o.Force = False,
) -> int:
    """Save the statistics of a set of pictures for --reference of recon and gen.

    [bold]eval statistics --data imagenet/val --protocol llamagen --out val256.npz[/bold]
    """
    from eval.launched import own_device, processes
    from eval.session import chosen_protocol
    from eval.set_session import SetSession
    from eval.set_statistics import network_named, save_set_statistics

    chosen = chosen_protocol(protocol, "image", "adm", crop=crop, size=size)
    if split is not None:
        chosen = chosen.changed(split=split)
    with processes() as here:
        session = SetSession(
            command="statistics", here=here, out=out, force=force, batch_size=batch_size,
            endings=(".npz",),
        )  # fmt: skip
        save_set_statistics(
            session, data, chosen, network_named(network, chosen, weights),
            device=own_device(device), skip_bad=skip_bad,
        )  # fmt: skip
    return 0
