"""``tessera decode``: token files back to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera import options as o

if TYPE_CHECKING:
    from tessera.files import Job

Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="OUT", help="A file such as out.png or out.wav, or a folder."
    ),
]


def decode(
    inputs: o.Inputs,
    output: Output,
    model: o.Model = None,
    format: o.Format = None,
    device: o.Device = "auto",
    batch_size: o.BatchSize = 16,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Turn token files (.tok) back into pictures or sounds of their original size.

    [bold]tessera decode tokens/ -o pictures/ --format webp[/bold]
    """
    from tessera.pipeline import Row, Steps
    from tessera.session import TOKEN_SUFFIX, Session, named
    from tok_core.token_file import TokenFile, read_token_file

    session = Session.open(model, inputs=inputs, device=device, batch_size=batch_size)
    codec = session.codec
    suffix = o.chosen_format(format, codec.writable, codec.default_suffix)
    plan = session.plan(inputs, output, {TOKEN_SUFFIX}, suffix, legal=codec.writable, force=force)
    code_hash, entries = session.tokenizer.code_hash(), session.tokenizer.spec.vocabulary
    # Equal tables need no table per factor: which axis the factors lie on is the codec's affair.
    vocabulary = entries[:1] if len(set(entries)) == 1 else entries

    def read(path: Path) -> TokenFile:
        file = read_token_file(path, expect_code_hash=code_hash, vocabulary=vocabulary)
        codec.check(file)
        return file

    def write(job: Job, file: TokenFile, signal: Any) -> Row:
        size = codec.write(job.target, signal, force=force)
        return named(job) | codec.rate(file, job.source.stat().st_size) | {"output_bytes": size}

    steps = Steps(read, codec.decode, write, codec.decode_weight, codec.ahead)
    return session.run(plan, steps, verb="decoded", as_json=json)
