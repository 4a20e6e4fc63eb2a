"""``eval audio``: codecs on a folder of sounds."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o

Table = Annotated[
    str | None,
    typer.Option("--table", metavar="dates", show_default=False,
                 help="dates: the metrics and columns of DATES (arXiv 2506.10274)."),
]  # fmt: skip

SpeakerModel = Annotated[
    str | None,
    typer.Option("--speaker-model", metavar="NAME", show_default=False,
                 help="For speaker_similarity: transformers:NAME, a folder, MODULE:FUNCTION."),
]  # fmt: skip
Recogniser = Annotated[
    str | None,
    typer.Option("--recogniser", metavar="NAME", show_default=False,
                 help="For wer and cer: transformers:NAME, a folder, MODULE:FUNCTION."),
]  # fmt: skip
Transcripts = Annotated[
    str | None,
    typer.Option("--transcripts", metavar="FILE.jsonl", show_default="what is heard in originals",
                 help='What was said, lines {"item": NAME, "text": ...}.'),
]  # fmt: skip


def audio(
    tokenizer: o.Tokenizers,
    data: o.Data,
    budgets: o.Budgets = None,
    bitrates: o.Bitrates = None,
    metrics: o.Metrics = None,
    table: Table = None,
    protocol: o.ProtocolName = None,
    sample_rate: o.SampleRate = None,
    speaker_model: SpeakerModel = None,
    recogniser: Recogniser = None,
    transcripts: Transcripts = None,
    out: o.Out = None,
    count: o.Count = None,
    skip_bad: o.SkipBad = False,
    require: o.Require = False,
    no_ground_truth: o.NoTruth = False,
    batch_size: o.BatchSize = 8,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    speed: o.Speed = False,
    samples: o.Samples = 0,
    save_every: o.SaveEvery = 20.0,
    columns: o.Columns = None,
    format: o.FormatOption = o.Format.rich,
    force: o.Force = False,
) -> int:
    """Compare reconstructions of sounds: codecs, Opus, MP3, finished files.

    [bold]eval audio --tokenizer wavtokenizer-tiny opus --data speech/ --out results/audio.json
    [/bold]

    A killed run goes on when the same command runs again; accelerate launch -m eval audio ...
    runs it on several processes.
    """
    from eval.session import Session, chosen_protocol
    from tok_core.errors import ConfigError

    if table not in (None, "dates"):
        raise ConfigError(f"--table '{table}' is unknown; legal is dates.")
    dates = table == "dates"
    names = o.listed(metrics) or (list(o.dates_metrics()) if dates else [])
    default = "dates-speech" if dates else "sounds"
    return Session(
        command="audio", sense="audio", tokenizers=tokenizer, data=data, metrics=names,
        protocol=chosen_protocol(protocol, "audio", default, sample_rate=sample_rate),
        budgets=o.numbers(budgets, "--budgets"), bitrates=o.numbers(bitrates, "--bitrates"),
        out=out, count=count, skip_bad=skip_bad, require=require,
        ground_truth=not no_ground_truth, batch_size=batch_size, device=device, seed=seed,
        speaker_model=speaker_model, recogniser=recogniser, transcripts=transcripts,
        speed=speed, samples=samples, columns=["dates"] if dates else o.listed(columns),
        save_every=save_every, format=format.value, force=force,
    ).run()  # fmt: skip
