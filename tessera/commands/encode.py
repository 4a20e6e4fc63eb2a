"""``tessera encode``: files to token files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera import options as o

if TYPE_CHECKING:
    from tessera.files import Job

Output = Annotated[
    str, typer.Option("--output", "-o", metavar="OUT", help="A .tok file, or a folder for many.")
]


def encode(
    inputs: o.Inputs,
    output: Output,
    model: o.Model = None,
    tokens: o.Tokens = None,
    target_bytes: o.TargetBytes = None,
    target_psnr: o.TargetPsnr = None,
    policy: o.PolicyOption = None,
    channels: o.ChannelsOption = None,
    device: o.Device = "auto",
    batch_size: o.BatchSize = 16,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Turn files into token files (.tok), one each, mirroring the folders.

    The budget is one of --tokens, --target-bytes (the whole file) and --target-psnr; without any,
    every token is kept.

    [bold]tessera encode photos/ -o tokens/ --tokens 64[/bold] or
    [bold]tessera encode speech.wav -o speech.tok[/bold]
    """
    from tessera.pipeline import Row, Steps
    from tessera.session import TOKEN_SUFFIX, Session, named
    from tok_core.token_file import write_token_file

    session = Session.open(
        model, inputs=inputs, device=device, batch_size=batch_size, policy=policy,
        channels=channels, tokens=tokens, target_bytes=target_bytes, target_psnr=target_psnr,
    )  # fmt: skip
    codec = session.codec
    plan = session.plan(
        inputs, output, codec.readable, TOKEN_SUFFIX, legal={TOKEN_SUFFIX}, force=force
    )

    def write(job: Job, signal: Any, encoded: Any) -> Row:
        size = write_token_file(job.target, encoded.file, force=force)
        return named(job) | codec.rate(encoded.file, size) | encoded.facts

    steps = Steps(codec.read, codec.encode, write, codec.weight, codec.ahead)
    return session.run(plan, steps, verb="encoded", as_json=json)
