"""``tessera reconstruct``: files to tokens and back, with a table of what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera import options as o

if TYPE_CHECKING:
    from tessera.files import Job

Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="OUT", show_default="only the table",
        help="A file such as out.png or out.wav, or a folder.",
    ),
]  # fmt: skip


def reconstruct(
    inputs: o.Inputs,
    output: Output = None,
    model: o.Model = None,
    tokens: o.Tokens = None,
    target_bytes: o.TargetBytes = None,
    target_psnr: o.TargetPsnr = None,
    policy: o.PolicyOption = None,
    channels: o.ChannelsOption = None,
    format: o.Format = None,
    device: o.Device = "auto",
    batch_size: o.BatchSize = 16,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Encode, decode and compare: what the tokens keep, at what size.

    [bold]tessera reconstruct photo.jpg -o again.png --target-psnr 24[/bold] or
    [bold]tessera reconstruct speech.wav -o again.flac[/bold]
    """
    from tessera.pipeline import Row, Steps
    from tessera.session import Session, named
    from tok_core.errors import TesseraError
    from tok_core.token_file import dumps

    session = Session.open(
        model, inputs=inputs, device=device, batch_size=batch_size, policy=policy,
        channels=channels, tokens=tokens, target_bytes=target_bytes, target_psnr=target_psnr,
        keep_original=True,
    )  # fmt: skip
    codec = session.codec
    suffix = o.chosen_format(format, codec.writable, codec.default_suffix)
    if output is None:
        plan = session.plan_only_reading(inputs, codec.readable)
    else:
        plan = session.plan(
            inputs, output, codec.readable, suffix, legal=codec.writable, force=force
        )

    def work(signals: list[Any]) -> list[Any]:
        encoded = codec.encode(signals)
        good = [e for e in encoded if not isinstance(e, TesseraError)]
        decoded = iter(codec.decode([e.file for e in good]))
        return [e if isinstance(e, TesseraError) else _pair(e, next(decoded)) for e in encoded]

    def write(job: Job, signal: Any, result: Any) -> Row:
        encoded, decoded = result
        row = named(job) | codec.rate(encoded.file, len(dumps(encoded.file))) | encoded.facts
        row |= codec.compare(signal, decoded)
        if output is None:
            del row["target"]
        else:
            row["output_bytes"] = codec.write(job.target, decoded, force=force)
        return row

    steps = Steps(codec.read, work, write, codec.weight, codec.ahead)
    return session.run(plan, steps, verb="reconstructed", as_json=json)


def _pair(encoded: Any, decoded: Any) -> Any:
    from tok_core.errors import TesseraError

    return decoded if isinstance(decoded, TesseraError) else (encoded, decoded)
