"""``tessera tokenize``: a data set to token shards that generators train on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tessera import options as o

if TYPE_CHECKING:
    from tessera.tokenize_run import Outcome

Input = Annotated[
    str,
    typer.Argument(
        metavar="DIR", show_default=False,
        help="A folder (its folders are the classes), a quoted glob, or tar shards.",
    ),
]  # fmt: skip
Output = Annotated[
    str, typer.Argument(metavar="OUT", show_default=False, help="Folder of the shards.")
]
TenCrop = Annotated[
    bool, typer.Option("--ten-crop", help="Store ten crops of each picture (five, mirrored).")
]
Flips = Annotated[bool, typer.Option("--flips", help="Store each picture's mirror image too.")]
TwentyCrop = Annotated[
    bool,
    typer.Option("--twenty-crop", help="Ten crops, and ten more of a tighter centre crop."),
]
Captions = Annotated[
    bool,
    typer.Option(
        "--captions",
        help="Store the caption features in NAME.npy (and NAME.short.npy) beside each file, too.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", metavar="N", min=1, show_default="the network's own",
        help="Side of the pictures in pixels, for networks of any size.",
    ),
]  # fmt: skip
PerShard = Annotated[int, typer.Option("--per-shard", metavar="N", min=1, help="Files per shard.")]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes", metavar="N", min=1, show_default="one per core or GPU",
        help="The shards do not depend on their number.",
    ),
]  # fmt: skip
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where an earlier run was stopped or killed.")
]
Replace = Annotated[bool, typer.Option("--force", "-f", help="Replace the shards in OUT.")]
MOST_NAMED = 24  # broken files named on the terminal; the index names all


def tokenize(
    input: Input,  # noqa: A002 - the user's word
    output: Output,
    model: o.Model = None,
    ten_crop: TenCrop = False,
    flips: Flips = False,
    twenty_crop: TwentyCrop = False,
    captions: Captions = False,
    size: Size = None,
    per_shard: PerShard = 10_000,
    batch_size: o.BatchSize = 16,
    processes: Processes = None,
    device: o.Device = "auto",
    resume: Resume = False,
    force: Replace = False,
    json: o.Json = False,
) -> int:
    """Turn a data set into token shards: tar files with one index, for training generators.

    [bold]tessera tokenize photos/ tokens/ --ten-crop[/bold] or
    [bold]tessera tokenize "train-*.tar" tokens/ --processes 8[/bold]
    """
    from tessera import report
    from tessera.tokenize_run import Request, tokenize

    outcome = tokenize(Request(
        input=input, output=output, model=model, per_shard=per_shard, batch_size=batch_size,
        views=_views(twenty_crop=twenty_crop, ten_crop=ten_crop, flips=flips),
        captions=captions, size=size,
        processes=processes, device=device, resume=resume, force=force,
    ))  # fmt: skip
    if json:
        report.print_json(outcome.to_json())
    else:
        _table(outcome)
    _summary(outcome)
    return outcome.exit_code


def _views(*, twenty_crop: bool, ten_crop: bool, flips: bool) -> str | None:
    """Return the recipe of the views: the largest asked for, which holds the others."""
    if twenty_crop:
        return "twenty-crop"
    return "ten-crop" if ten_crop else "flips" if flips else None


def _table(outcome: Outcome) -> None:
    from tessera import report

    if outcome.shards:
        columns = {"file": ("shard", "s"), "samples": ("samples", "d"), "bytes": ("bytes", "d")}
        report.print_table("", outcome.shards[: report.MOST_ROWS], columns)
        if len(outcome.shards) > report.MOST_ROWS:
            report.say(f"the table shows the first {report.MOST_ROWS} of {len(outcome.shards)} "
                       "shards")


def _summary(outcome: Outcome) -> None:
    from tessera.report import say

    for failure in outcome.failures[:MOST_NAMED]:
        error, source = failure["error"], failure["source"]
        say(error if source in error else f"{source}: {error}")
    if outcome.failures:
        more = len(outcome.failures) - MOST_NAMED
        rest = f"; index.json names the other {more}" if more > 0 else ""
        say(f"skipped {len(outcome.failures)} broken files{rest}")
    folder = outcome.facts["folder"]
    if outcome.nothing_left:
        say(f"'{folder}' is finished: {outcome.samples} samples in {len(outcome.shards)} shards")
        return
    verb = "went through" if outcome.failures else "tokenized"
    done = f"{verb} {outcome.files} of {outcome.total} files in {outcome.seconds:.1f} s"
    if outcome.ratio is not None:
        done += (
            f": {outcome.files_per_second:.1f} files/s; the model alone makes "
            f"{outcome.model_files_per_second:.1f} files/s ({100 * outcome.ratio:.0f} % of it)"
        )
    say(done)
    if outcome.stopped:
        say(outcome.stopped)
    if outcome.interrupted:
        say("stopped by Ctrl-C; --resume goes on with what is finished")
