"""``tessera import``: a published checkpoint to a model folder of ours."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera import options as o


class Family(StrEnum):
    """Whose checkpoints; each family has an importer of its own."""

    kl = "kl"
    llamagen = "llamagen"
    maskgit = "maskgit"
    rar = "rar"
    robustok = "robustok"
    titok = "titok"
    tokenbridge = "tokenbridge"
    tokenflow = "tokenflow"
    vqgan = "vqgan"
    wavtokenizer = "wavtokenizer"


IMPORTERS = {
    Family.kl: "vision_tok.import_token_bridge:import_token_bridge",
    Family.llamagen: "generators.import_llamagen:import_llamagen",
    Family.maskgit: "generators.import_maskgit:import_maskgit",
    Family.rar: "generators.import_rar:import_rar",
    Family.robustok: "vision_tok.import_robus_tok:import_robus_tok",
    Family.titok: "vision_tok.import_titok:import_titok",
    Family.tokenbridge: "generators.import_token_bridge:import_token_bridge",
    Family.tokenflow: "vision_tok.import_token_flow:import_token_flow",
    Family.vqgan: "vision_tok.import_vqgan:import_vqgan",
    Family.wavtokenizer: "audio_tok.import_wav_tokenizer:import_wav_tokenizer",
}
# Tensors that tell whose checkpoint it is; the first family that a name begins with wins.
MARKS = {
    Family.llamagen: ("tok_embeddings.",),
    Family.maskgit: ("model.lm_head.", "in_blocks."),
    Family.rar: ("target_aware_pos_embed",),
    Family.robustok: ("encoder.latent_tokens",),  # it has a VQGAN's post_quant_conv, too
    Family.titok: ("latent_tokens",),
    Family.tokenbridge: ("channel_embed",),
    Family.tokenflow: ("quantize.embedding_vqkd.",),  # it has all of a VQGAN's names, too
    Family.vqgan: ("post_quant_conv.",),
    Family.kl: ("post_quant_conv.", "decoder.up_blocks."),  # a VQGAN's names, but no codebook
    Family.wavtokenizer: ("feature_extractor.",),
}
Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="The official file, folder or hub id.")
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="JSON", help="The official config.",
        show_default="that of the folder, or read off the shapes",
    ),
]  # fmt: skip
FamilyOption = Annotated[
    Family | None,
    typer.Option(
        "--family", show_default="told by the names of the tensors",
        help="kl: KL autoencoders (MAR's KL-16, latent diffusion, diffusers AutoencoderKL), made "
        "TokenBridge's tokenizer; llamagen, maskgit, rar, tokenbridge: generators (LlamaGen's "
        "tokenizers are vqgan); robustok: RobusTok, XQ-GAN, ImageFolder; titok: TiTok, "
        "One-D-Piece, TA-TiTok, MaskGIT-VQGAN; tokenflow: TokenFlow; vqgan: LlamaGen, taming, "
        "VAR, diffusers VQModel; wavtokenizer: WavTokenizer.",
    ),
]  # fmt: skip


def import_checkpoint(
    checkpoint: Checkpoint,
    output: o.ModelFolder,
    config: Config = None,
    family: FamilyOption = None,
    json: o.Json = False,
    force: o.Force = False,
) -> int:
    """Turn a published checkpoint into a model folder (config.json and safetensors).

    Every key is mapped; a key left over on either side is an error.

    [bold]tessera import tokenizer_titok_l32.bin -o models/titok-l32[/bold]
    """
    import importlib

    from tessera import report
    from tessera.model_folder import check_new, save_whole
    from tok_core.errors import ConfigError

    check_new(output, force=force)
    if config is not None and not config.is_file():
        raise ConfigError(f"there is no config file '{config}'.")
    if family is None:
        family = guess_family(checkpoint)
    if family is Family.wavtokenizer and config is not None:
        raise ConfigError("WavTokenizer's sizes follow from its tensors; leave --config out.")
    module, name = IMPORTERS[family].split(":")
    read = getattr(importlib.import_module(module), name)
    model = read(checkpoint) if family is Family.wavtokenizer else read(checkpoint, config)
    save_whole(model, output)
    facts: dict[str, Any] = {
        "source": checkpoint,
        "folder": str(output),
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_hash": model.weights_hash(),
    }
    if json:
        report.print_json(facts)
    else:
        print(f"{facts['class']} with {facts['parameters']:,} parameters is in {output}")
    return 0


def guess_family(checkpoint: str) -> Family:
    """Return the family of a checkpoint by the names of its tensors.

    Where none of `MARKS` is found the answer is TiTok's, whose importer says what it needs.

    Raises:
        WeightsError: nothing there, or unreadable.
    """
    from tok_core.official_source import find_official
    from tok_core.official_weights import read_state
    from vision_tok.import_vqgan import WRAPPERS, tokenizer_part
    from vision_tok.token_bridge import TokenBridgeTokenizer
    from vision_tok.vqgan import VQGAN

    path = Path(checkpoint)
    if path.is_dir() and any(path.glob("*.ckpt")):
        return Family.wavtokenizer
    foreign = VQGAN.foreign_classes + TokenBridgeTokenizer.foreign_classes
    found = find_official(checkpoint, {}, foreign)
    if found is None:
        return Family.titok
    names = tokenizer_part(read_state(found[0], (*WRAPPERS, "model_ema")))
    codebook = any(name.startswith("quantize.") for name in names)
    for family, marks in MARKS.items():
        if family is Family.vqgan and not codebook:
            continue
        if any(name.startswith(marks) for name in names):
            return family
    return Family.titok
