"""``eval pfid``: how far reconstructions from perturbed codes lie from the originals."""

from __future__ import annotations

from eval import options as o


def pfid(
    tokenizer: o.Tokenizers,
    data: o.Data,
    budgets: o.Budgets = None,
    grid: o.Grid = "robusttok-reconstructed",
    alphas: o.Alphas = None,
    deltas: o.Deltas = None,
    neighbourhood: o.Neighbourhood = "code",
    protocol: o.ProtocolName = "photographs",
    crop: o.Crop = None,
    out: o.Out = None,
    count: o.Count = None,
    skip_bad: o.SkipBad = False,
    require: o.Require = False,
    batch_size: o.BatchSize = 16,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Perturb the codes of tokenizers and measure the distance to the originals (pFID).

    Without the FID Inception's weights the distance is frechet/procedural-v1, and the scores are
    called perturbed/frechet/procedural-v1: they are no pFID. Pictures are cropped to each
    tokenizer's own size.

    [bold]eval pfid --tokenizer one-d-piece-tiny --data photos/ --alphas 0.5,0.9 --deltas 16[/bold]
    """
    from eval.launched import own_device, processes
    from eval.perturbed_runs import PerturbedPictures, chosen_grid
    from eval.session import chosen_protocol
    from eval.set_session import SetSession

    chosen = chosen_protocol(protocol, "image", "photographs", crop=crop)
    settings = chosen_grid(grid, alphas, deltas, neighbourhood, seed)
    with processes() as here:
        session = SetSession(
            command="pfid", here=here, out=out, force=force, batch_size=batch_size, seed=seed
        )
        PerturbedPictures(session, chosen, settings, own_device(device)).all(
            tokenizer, data, budgets=o.numbers(budgets, "--budgets"), skip_bad=skip_bad,
            count=count,
        )  # fmt: skip
        return session.finish(format=format.value, require=require)
