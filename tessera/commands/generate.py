"""``tessera generate``: pictures or sounds from a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tessera import options as o

Pipe = Annotated[
    str | None,
    typer.Argument(
        metavar="[PIPELINE]", help="A pipeline's folder or hub id, or a generator's folder.",
        show_default="the shipped generator",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for what is made.")
]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="M", help="Model that decodes its tokens.",
        show_default="the shipped tokenizer of the generator's tokens",
    ),
]  # fmt: skip
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels", "-l", metavar="N,N,...", help="Classes, taken in turn.",
        show_default="all, in turn",
    ),
]  # fmt: skip
Captions = Annotated[
    Path | None,
    typer.Option(
        "--captions", metavar="NPY", show_default=False,
        help="Caption features, a .npy file or a folder of them, taken in turn.",
    ),
]  # fmt: skip
Grid = Annotated[
    Path | None, typer.Option("--grid", metavar="PNG", help="Contact sheet of the pictures.")
]
Shards = Annotated[
    int | None,
    typer.Option(
        "--per-shard", metavar="N", min=1,
        help="Write tar shards of so many samples instead of files; a second run goes on.",
    ),
]  # fmt: skip
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the generator first: for many samples on a GPU.",
    ),
]  # fmt: skip
GRID_MOST = 256  # pictures of a contact sheet


def generate(
    pipeline: Pipe = None,
    output: Output = Path("generated"),
    generator: Annotated[
        str | None, typer.Option(metavar="M", help="Model folder, instead of a pipeline.")
    ] = None,
    tokenizer: Part = None,
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="How many in all.")] = 16,
    labels: Labels = None,
    captions: Captions = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the whole set.")] = 0,
    guidance: Annotated[float, typer.Option("--guidance", "-g", help="Scale; 1 is none.")] = 1.0,
    schedule: Annotated[str, typer.Option(help="How the scale changes.")] = "constant",
    power: Annotated[float, typer.Option(help="Of the schedule power_cosine.")] = 1.0,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest code.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0 is all.")] = 0,
    top_p: Annotated[float, typer.Option(help="1 is all.")] = 1.0,
    steps: Annotated[int | None, typer.Option(help="Of a masked generator.")] = None,
    grid: Grid = None,
    per_shard: Shards = None,
    compile_blocks: Compile = False,
    device: o.Device = "auto",
    batch_size: o.BatchSize = 16,
    force: o.Force = False,
) -> int:
    """Draw tokens and decode them to pictures or sounds, one file each or in tar shards.

    Sample number i is the same in every run with the same seed and settings. Several processes
    (torchrun -m tessera.cli generate ...) share the shards; whole shards are never made again.

    [bold]tessera generate runs/pipe -n 64 --guidance 2 --grid sheet.png[/bold]; for gFID
    [bold]tessera generate runs/pipe -n 50000 --per-shard 1000 -o samples/[/bold]
    """
    from tessera.files import make_folder
    from tessera.generated import Maker
    from tessera.generator_pipeline import open_pipeline
    from tok_core.atomic_write import check_free

    if grid is not None:
        check_free(grid, force=force)
    pipe = open_pipeline(pipeline, generator=generator, tokenizer=tokenizer, device=device)
    if compile_blocks:
        _compile(pipe.generator)
    classes = pipe.generator.classes
    settings = {
        "guidance_scale": guidance, "guidance_schedule": schedule, "guidance_power": power,
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "num_inference_steps": steps,
    }  # fmt: skip
    maker = Maker(
        pipe, _labels(labels, classes), seed=seed, batch=batch_size, settings=settings,
        captions=_captions(captions, pipe.generator.captions),
    )  # fmt: skip
    make_folder(output)
    pipe.set_progress_bar_config(disable=True)
    if per_shard is not None:
        return _shards(maker, output, num, per_shard)
    return _files(maker, output, num, grid, force)


def _compile(generator: Any) -> None:
    """Compile the layers of a generator that takes many small steps."""
    from tok_core.errors import ConfigError

    if not generator._repeated_blocks:
        raise ConfigError(
            f"{type(generator).__name__} takes few large steps and is not compiled; leave "
            "--compile out."
        )
    generator.compile_repeated_blocks(dynamic=True)


def _captions(path: Path | None, shape: tuple[int, int] | None) -> Any:
    from tessera.caption_files import read_captions
    from tok_core.errors import ConfigError

    if path is not None:
        return read_captions(path, shape)
    if shape is not None:
        raise ConfigError(
            f"this generator takes captions; give --captions with .npy files of up to {shape[0]} "
            f"positions of {shape[1]} features."
        )
    return ()


def _labels(text: str | None, classes: int) -> list[int]:
    from tok_core.errors import ConfigError

    if text is None:
        return list(range(classes))
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) < classes for word in words):
        raise ConfigError(
            f"--labels is '{text}'; give numbers from 0 to {classes - 1}, with commas between."
            if classes else "this generator knows no classes; leave --labels out."
        )  # fmt: skip
    return [int(word) for word in words]


def _files(maker: Any, output: Path, num: int, grid: Path | None, force: bool) -> int:
    """Write one file per sample, and the grid."""
    from tessera.generated import contact_sheet
    from tok_core.atomic_write import check_free, write_bytes
    from tok_core.errors import ConfigError
    from tok_core.progress_bar import progress_bar

    if grid is not None and maker.suffix != ".png":
        raise ConfigError("--grid shows pictures but this pipeline makes sounds; leave it out.")
    targets = [output / (maker.name(i) + maker.suffix) for i in range(num)]
    for target in targets:
        check_free(target, force=force)
    shown: list[bytes] = []
    with progress_bar(num, "generated", unit="samples") as advance:
        for sample in maker.samples(range(num)):
            write_bytes(targets[sample.number], sample.data, force=force)
            if len(shown) < GRID_MOST:
                shown.append(sample.data)
            advance(1)
    if grid is not None:
        columns = max(1, round(len(shown) ** 0.5))
        write_bytes(grid, contact_sheet(shown, columns), force=force)
    print(f"{num} samples are in {output}")
    return 0


def _shards(maker: Any, output: Path, num: int, per_shard: int) -> int:
    """Write shards that are not there yet; every process takes its own."""
    import os

    from tessera.generated import check_same, write_shard
    from tok_core.progress_bar import progress_bar

    check_same(maker, output, num, per_shard)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    starts = range(0, num, per_shard)
    mine = [start for index, start in enumerate(starts) if index % world == rank]
    made = 0
    with progress_bar(num // world, "generated", unit="samples") as advance:
        for start in mine:
            numbers = range(start, min(start + per_shard, num))
            target = output / f"samples-{start // per_shard:06d}.tar"
            if not target.exists():
                write_shard(target, maker.samples(numbers), maker.suffix)
                made += len(numbers)
            advance(len(numbers))
    print(f"{made} samples were made by this process (of {world}) in {output}")
    return 0
