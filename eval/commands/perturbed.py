"""``eval perturbed``: how fast a codec's quality falls when a neighbour code is picked."""

from __future__ import annotations

from eval import options as o


def perturbed(
    tokenizer: o.Tokenizers,
    data: o.Data,
    budgets: o.Budgets = None,
    metrics: o.Metrics = None,
    grid: o.Grid = "codec-v1",
    alphas: o.Alphas = None,
    deltas: o.Deltas = None,
    neighbourhood: o.Neighbourhood = "code",
    protocol: o.ProtocolName = "sounds",
    out: o.Out = None,
    count: o.Count = None,
    skip_bad: o.SkipBad = False,
    require: o.Require = False,
    batch_size: o.BatchSize = 4,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Perturb the codes of codecs and measure what is left, beside the clean decoding.

    [bold]eval perturbed --tokenizer wavtokenizer-tiny --data speech/ --metrics mel_distance,stoi
    [/bold]
    """
    from eval.launched import own_device, processes
    from eval.perturbed_runs import PerturbedSounds, chosen_grid
    from eval.session import chosen_protocol
    from eval.set_session import SetSession

    chosen = chosen_protocol(protocol, "audio", "sounds")
    settings = chosen_grid(grid, alphas, deltas, neighbourhood, seed)
    with processes() as here:
        session = SetSession(
            command="perturbed", here=here, out=out, force=force, batch_size=batch_size, seed=seed
        )
        PerturbedSounds(session, chosen, settings, own_device(device)).all(
            tokenizer, data, metrics=o.listed(metrics) or [], skip_bad=skip_bad, count=count,
            budgets=o.numbers(budgets, "--budgets"),
        )  # fmt: skip
        return session.finish(format=format.value, require=require)
