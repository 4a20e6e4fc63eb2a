"""``eval recon``: image tokenizers and picture codecs on a folder of pictures."""

from __future__ import annotations

from eval import options as o


def recon(
    tokenizer: o.Tokenizers,
    data: o.Data,
    budgets: o.Budgets = None,
    qualities: o.Qualities = None,
    metrics: o.Metrics = None,
    protocol: o.ProtocolName = "photographs",
    crop: o.Crop = None,
    size: o.Size = None,
    reference: o.Reference = None,
    out: o.Out = None,
    count: o.Count = None,
    skip_bad: o.SkipBad = False,
    require: o.Require = False,
    no_ground_truth: o.NoTruth = False,
    policy: o.PolicyOption = o.Policy.tile,
    batch_size: o.BatchSize = 16,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    speed: o.Speed = False,
    samples: o.Samples = 0,
    save_every: o.SaveEvery = 20.0,
    columns: o.Columns = None,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Compare reconstructions of pictures: tokenizers, JPEG, WebP, finished files.

    [bold]eval recon --tokenizer one-d-piece-tiny jpeg webp --data photos/ --budgets 32,64,128,256
    --metrics psnr,ssim,lpips --out results/recon.json[/bold]

    A killed run goes on when the same command runs again; accelerate launch -m eval recon ...
    runs it on several processes.
    """
    from eval.session import Session, chosen_protocol

    return Session(
        command="recon", sense="image", tokenizers=tokenizer, data=data, metrics=metrics or [],
        protocol=chosen_protocol(protocol, "image", "photographs", crop=crop, size=size),
        budgets=o.numbers(budgets, "--budgets"), qualities=o.numbers(qualities, "--qualities"),
        out=out, reference=reference, count=count, skip_bad=skip_bad, require=require,
        ground_truth=not no_ground_truth, policy=policy.value, batch_size=batch_size,
        device=device, seed=seed, speed=speed, samples=samples, columns=o.listed(columns),
        save_every=save_every, format=format.value, force=force,
    ).run()  # fmt: skip
