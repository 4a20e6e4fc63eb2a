"""``tessera bench``: the speed check of this machine, and the benchmarks of the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera import options as o

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
SPEED = "speed"


def bench(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="speed, all, or one of the listed scripts; more options go to "
            "the script.", show_default="list them",
        ),
    ] = None,
    model: o.Model = None,
    files: Annotated[
        int, typer.Option("--files", min=1, help="Pictures of the speed check.")
    ] = 200,
    device: o.Device = "auto",
    batch_size: o.BatchSize = 16,
    json: o.Json = False,
) -> int:  # fmt: skip
    """Measure: 'speed' compares encoding a folder with the model alone; others run scripts.

    [bold]tessera bench speed --files 1000[/bold]
    """
    from tessera import report
    from tok_core.errors import ConfigError, nearest

    scripts = _scripts()
    if name is None:
        print(f"{SPEED}: encode a folder of small pictures against the model alone (any install)")
        for script in scripts.values():
            print(f"{script.stem}: {_first_line(script)}")
        return 0
    if name == SPEED:
        from tessera.speed import measure_speed

        result = measure_speed(model, files=files, device=device, batch_size=batch_size)
        report.print_json(result) if json else _print_speed(result)
        return 0
    if name != "all" and name not in scripts:
        raise ConfigError(
            f"there is no benchmark '{name}'; legal are {', '.join([SPEED, 'all', *scripts])}"
            f"{nearest(name, [SPEED, *scripts])}"
        )
    chosen = scripts.values() if name == "all" else [scripts[name]]
    return max((_run(script, list(context.args)) for script in chosen), default=0)


def _scripts() -> dict[str, Path]:
    """Return the repository's benchmark scripts by name; none in an installed wheel."""
    import tessera

    folder = Path(tessera.__file__).resolve().parents[1] / "benchmarks"
    scripts = [f for f in sorted(folder.glob("*.py")) if not f.name.startswith("_")]
    return {script.stem: script for script in scripts}


def _first_line(script: Path) -> str:
    import ast

    return (ast.get_docstring(ast.parse(script.read_text())) or "").partition("\n")[0]


def _run(script: Path, arguments: list[str]) -> int:
    import subprocess
    import sys

    from tessera import report

    report.say(f"running {script.stem}")
    return subprocess.run([sys.executable, str(script), *arguments], check=False).returncode


def _print_speed(result: dict[str, float]) -> None:
    from tessera import report

    columns = {
        "source": ("what", "s"), "rate": ("files/s", ".1f"), "share": ("of model alone", ".2f")
    }  # fmt: skip
    rows = [
        {"source": "model alone, pictures in memory", "rate": result["model_only"], "share": 1.0},
        {"source": "tessera encode, files to files", "rate": result["encode"],
         "share": result["encode"] / result["model_only"]},
        {"source": "decoder alone, tokens in memory", "rate": result["decoder_only"], "share": 1.0},
        {"source": "tessera decode, files to files", "rate": result["decode"],
         "share": result["decode"] / result["decoder_only"]},
    ]  # fmt: skip
    report.print_table(f"{result['files']} pictures, batch {result['batch_size']}", rows, columns)
