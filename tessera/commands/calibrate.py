"""``tessera calibrate``: a tokenizer of a KL autoencoder, measured on a user's data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from tessera import options as o


class Dtype(StrEnum):
    """How weights are stored; loaded they are float32."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


Autoencoder = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", show_default=False,
        help="A KL autoencoder of pictures (our folder, a folder or hub id of diffusers' "
        "AutoencoderKL, MAR's kl16.ckpt), a continuous codec of sound (KLCodec), or a tokenizer "
        "over either.",
    ),
]  # fmt: skip
Data = Annotated[
    str,
    typer.Option(
        "--data", help="Folder of pictures or sounds, tar shards, a list of sounds, or "
        "'procedural'.",
    ),
]  # fmt: skip
Count = Annotated[
    int | None,
    typer.Option(
        "--count", metavar="N", min=1, help="Pictures, or clips of sound.",
        show_default="1024 or 256",
    ),
]  # fmt: skip
Size = Annotated[
    int | None,
    typer.Option(
        "--size", metavar="PX", min=1, help="Side of what is cut out of pictures.",
        show_default="the autoencoder's",
    ),
]  # fmt: skip
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", metavar="S", help="Length of a clip of sound.", show_default="3"),
]
Bits = Annotated[int, typer.Option("--bits", help="Of every dimension's code.")]
Patch = Annotated[
    int | None,
    typer.Option(
        "--patch-size", metavar="P", help="Cells per side of a position of pictures.",
        show_default="1",
    ),
]  # fmt: skip
PerChannel = Annotated[
    bool, typer.Option("--per-channel", help="A scale and shift for each channel.")
]
Percentile = Annotated[
    float, typer.Option("--percentile", help="Of the normalised latents that the range holds.")
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Of the stored weights.")]


def calibrate(
    model: Autoencoder,
    output: o.ModelFolder,
    data: Data,
    count: Count = None,
    size: Size = None,
    seconds: Seconds = None,
    bits: Bits = 6,
    patch_size: Patch = None,
    per_channel: PerChannel = False,
    percentile: Percentile = 99.99,
    dtype: DtypeOption = Dtype.float32,
    device: o.Device = "auto",
    json: o.Json = False,
    force: o.Force = False,
) -> int:  # fmt: skip
    """Make a tokenizer of a KL autoencoder: measure scale, range and channel order on your data.

    Nothing is trained; the settings stand in config.json of the new model folder.

    [bold]tessera calibrate kl16.ckpt -o models/kl16 --data photos/ --size 256[/bold]
    """
    from tessera import report
    from tessera.model_folder import check_new, save_whole
    from tok_core.calibration_batches import stored_in
    from tok_core.errors import ConfigError
    from tok_core.shipped_models import find_device, shipped_models

    check_new(output, force=force)
    place = str(shipped_models().get(model, model))
    sound = _is_codec(place)
    wrong = {"--size": size, "--patch-size": patch_size} if sound else {"--seconds": seconds}
    for option, value in wrong.items():
        if value is not None:
            raise ConfigError(
                f"{option} belongs to {'pictures' if sound else 'sound'} and '{model}' is an "
                f"autoencoder of {'sound' if sound else 'pictures'}; leave it out."
            )
    chosen = {"count": count, "size": size, "seconds": seconds, "patch_size": patch_size}
    settings: dict[str, Any] = {
        "bits": bits, "per_channel": per_channel, "percentile": percentile,
        "device": find_device(device),
        **{name: value for name, value in chosen.items() if value is not None},
    }  # fmt: skip
    tokenizer = _measured(place, data, sound, settings)
    save_whole(stored_in(tokenizer, dtype.value), output)
    facts = {
        "source": model, "folder": str(output), "class": type(tokenizer).__name__,
        **tokenizer.quantizer.config.to_json(),
    }  # fmt: skip
    report.print_json(facts) if json else _print_facts(facts)
    return 0


def _is_codec(place: str) -> bool:
    """Whether a model folder or hub id holds an autoencoder of sound, else of pictures."""
    from audio_tok.calibrate import TAKES as SOUND
    from tok_core.errors import ConfigError, WeightsError
    from tok_core.loading import model_classes
    from tok_core.strict_loading import read_config
    from vision_tok.calibrate import TAKES as PICTURES

    try:
        kind = read_config(place, {}).get("_class_name")
    except WeightsError:  # a single file, or nothing: the importer of pictures says what it needs
        return False
    if kind in model_classes() and kind not in (*SOUND, *PICTURES):
        raise ConfigError(
            f"'{place}' is a {kind}, which has no Gaussian latents to measure; give a KL "
            f"autoencoder or a continuous codec ({', '.join((*PICTURES, *SOUND))})."
        )
    return kind in SOUND


def _measured(place: str, data: str, sound: bool, settings: dict[str, Any]) -> Any:
    from tok_core.progress_bar import progress_bar

    if sound:
        from audio_tok.calibrate import COUNT, calibrate_sounds

        with progress_bar(settings.get("count", COUNT), "measured", unit="clips") as advance:
            return calibrate_sounds(place, data, progress=advance, **settings)
    from vision_tok.calibrate import COUNT as PICTURES
    from vision_tok.calibrate import calibrate_pictures

    with progress_bar(settings.get("count", PICTURES), "measured", unit="pictures") as advance:
        return calibrate_pictures(place, data, progress=advance, **settings)


def _print_facts(facts: dict[str, Any]) -> None:
    order = facts["channel_order"]
    print(f"scale          {_numbers(facts['scale'])}")
    print(f"shift          {_numbers(facts['shift'])}")
    print(f"range          {facts['low']:.4g} to {facts['high']:.4g}, in normalised latents")
    print(f"channel order  {' '.join(str(channel) for channel in order)}")
    print(f"{facts['class']} of {facts['bits']} bits a dimension is in {facts['folder']}")


def _numbers(value: Any) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join(f"{one:.4g}" for one in values)
