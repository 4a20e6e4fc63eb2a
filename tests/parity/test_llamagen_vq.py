"""The VQGAN family against outputs of the official code: networks, codes, one training step.

Every tensor of every ``io.safetensors`` is one test: its key says what to compute.  Sizes and
options come from the ``config.json`` beside it through the public importer, folders from the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.vectors import (
    PARITY,
    Kinds,
    Tolerance,
    config_of,
    folders_with,
    manifest_of,
    meta_state,
    parity_folder,
    tensors_of,
)
from tok_core.errors import WeightsError
from tok_core.weight_files import load_strictly
from vision_tok.adversarial_loss import discriminator_hinge, discriminator_vanilla
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig
from vision_tok.import_vqgan import import_vqgan, official_names, vqgan_from_state
from vision_tok.infer_vqgan import layout_of
from vision_tok.patch_discriminator import PatchDiscriminator
from vision_tok.vqgan import VQGAN

FOLDER = parity_folder("llamagen-vq")

FEATURE = Tolerance(absolute=1e-4)
LOSS, GRADIENT = Tolerance(peak=1e-5), Tolerance(peak=1e-3)
FOLDERS = folders_with("io.safetensors", FOLDER)
INPUT = re.compile(r"image")


@cache
def _model(folder: Path) -> VQGAN:
    return import_vqgan(folder)


def _picture(folder: Path) -> Tensor:
    return tensors_of(folder)["image"]


# -- what each key asks for ----------------------------------------------------------------------

KINDS = Kinds(FOLDERS, FEATURE, elsewhere=INPUT)
kind = KINDS.kind


@cache
def _inside(folder: Path) -> dict[str, Tensor]:
    """Activations of both sides at the places that the vectors name."""
    model, found, hooks = _model(folder), {}, []

    def keep(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: found.update({name: output.clone()})

    for i, level in enumerate(model.encoder.levels):
        parts: Any = level.attentions if len(level.attentions) else level.blocks
        hooks.append(parts[-1].register_forward_hook(keep(f"encoder_level{i}_before_downsample")))
    hooks.append(model.encoder.register_forward_hook(keep("encoder_out")))
    hooks.append(model.decoder.middle.register_forward_hook(keep("decoder_after_mid")))
    model.decode_latents(model.embed(model.encode(_picture(folder))))
    for hook in hooks:
        hook.remove()
    return found


@kind("inside", r"(encoder_level\d+_before_downsample|encoder_out|decoder_after_mid)")
def _activations(folder: Path, name: str) -> Tensor:
    stored = tensors_of(folder)[name]  # large ones are cut to the first picture and channels
    return _inside(folder)[name][tuple(slice(size) for size in stored.shape)]


@kind("latents", r"pre_quant")
def _latents(folder: Path) -> Tensor:
    return _model(folder).latents(_picture(folder))


@kind("codes", r"indices")
def _codes(folder: Path) -> Tensor:
    tokens = _model(folder).encode(_picture(folder))
    height, width = _picture(folder).shape[-2:]
    assert tokens.extent.tolist() == [[height, width]] * len(_picture(folder))
    return tokens.codes


@kind("code vectors", r"quantized|codebook_entry")
def _code_vectors(folder: Path) -> Tensor:
    return _model(folder).embed(tensors_of(folder)["indices"])


@kind("margin", r"distance_margin")
def _margin(folder: Path) -> Tensor:
    model = _model(folder)
    rows = model.latents(_picture(folder)).movedim(1, -1).flatten(0, 2)
    if model.config["l2_normalize"]:
        rows = torch.nn.functional.normalize(rows, dim=-1)
    distance = torch.cdist(rows, model.codebooks[0].vectors).square()
    nearest, second = distance.topk(2, dim=1, largest=False).values.unbind(1)
    return second - nearest


@kind("pictures", r"decoded(_from_code)?")
def _decoded(folder: Path, from_code: str | None) -> Tensor:
    model, codes = _model(folder), tensors_of(folder)["indices"]
    z = model.embed(codes) if from_code else tensors_of(folder)["quantized"]
    picture = model.forward(_picture(folder), tokens=None).reconstruction
    plain = model.decoder(model.post_quant_conv(z))  # published pictures are not clamped
    assert (picture - plain).abs().max() <= FEATURE.absolute
    assert torch.equal(model.decode(codes), model.decode_latents(model.embed(codes)))
    assert (model.decode(codes) - plain.clamp(-1, 1)).abs().max() <= FEATURE.absolute
    return plain


@kind("continuous pictures", r"decoded_without_quantizing")
def _continuous(folder: Path) -> Tensor:
    model = _model(folder)
    return model.decoder(model.post_quant_conv(model.latents(_picture(folder))))


@kind("quantizer loss", r"quantizer_loss", LOSS)
def _quantizer_loss(folder: Path) -> Tensor:
    losses = import_vqgan(folder).train()(_picture(folder)).losses
    return torch.stack(list(losses.values())).sum()


# -- the discriminator and one training step -----------------------------------------------------


def _discriminator(folder: Path) -> PatchDiscriminator:
    config = config_of(folder)
    network = PatchDiscriminator(config["disc_dim"], config["disc_num_layers"])
    load_strictly(network, load_file(folder / "discriminator.safetensors"), source=str(folder))
    return network


def _objective(folder: Path, **changes: Any) -> ImageObjective:
    config = config_of(folder)
    assert config["reconstruction_loss"] == "l2" and not config["perceptual_weight"]
    options = ImageObjectiveConfig(**{
        "picture_range": "signed", "l2_weight": config["reconstruction_weight"],
        "discriminator": True, "discriminator_kind": "patchgan", "discriminator_start": 0,
        "discriminator_weight": 1.0, "discriminator_factor": config["disc_weight"],
        "lecam_weight": 0.0, **changes,
    })  # fmt: skip
    return ImageObjective(options, discriminator=_discriminator(folder)).train()


@kind("discriminator", r"disc_eval_logits_real")
def _verdict(folder: Path) -> Tensor:
    return _discriminator(folder).eval()(_picture(folder))


@cache
def _trained(folder: Path) -> dict[str, Tensor]:
    """The generator's turn, then the discriminator's, from the stored weights."""
    x, model, objective = _picture(folder), import_vqgan(folder).train(), _objective(folder)
    with torch.enable_grad():
        out = model(x)
        losses = objective.generator_losses(x, out, 0)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
    said, beta = objective.last_statistics, config_of(folder)
    assert beta["commit_loss_beta"] == model.settings.options.commitment_weight
    found = {
        "rec": out.reconstruction, "rec_loss_l2": said["l2"], "l1_loss": said["l1"],
        "vq_loss": out.losses["quantizer/codebook"],
        "commit_loss": out.losses["quantizer/commitment"],
        "entropy_loss": out.losses["quantizer/entropy"],
        "codebook_usage": out.statistics["codebook/recent_usage"],
        "generator_hinge": said["gan"], "total_without_perceptual": total,
    }  # fmt: skip
    parameters = dict(model.named_parameters())
    norm = torch.stack([p.grad.norm() for p in parameters.values()]).norm()
    found["grad_global_norm"] = norm
    layout = layout_of(tensors_of(folder, "weights"), "it")
    for ours, parts in official_names(model, layout).items():
        if ours in parameters:
            gradient = parameters[ours].grad
            for part, piece in zip(parts, gradient.chunk(len(parts)), strict=True):
                found[f"grad.{part}"] = piece
    # The stored window is that after a second training forward, the adaptive weight's.
    model(x)
    found["codebook_used_after"] = model.recent.codes.float()
    return {name: torch.as_tensor(value).detach() for name, value in found.items()}


@kind("training step", r"train_(rec|codebook_used_after)")
def _train_out(folder: Path, name: str) -> Tensor:
    return _trained(folder)[name]


@kind(
    "training losses",
    r"train_(rec_loss_l2|l1_loss|vq_loss|commit_loss|entropy_loss|codebook_usage|generator_hinge"
    r"|total_without_perceptual)",
    LOSS,
)
def _train_loss(folder: Path, name: str) -> Tensor:
    return _trained(folder)[name]


@kind("gradients", r"(grad\..+|grad_global_norm)", GRADIENT)
def _gradient(folder: Path, name: str) -> Tensor:
    return _trained(folder)[name]


@cache
def _verdicts(folder: Path) -> dict[str, Tensor]:
    """Logits of the two turns in the official order; the picture is the stored one."""
    network = _discriminator(folder).train()
    real, fake = _picture(folder), tensors_of(folder)["train_rec"]
    generator = network(fake)
    return {"fake_for_generator": generator, "real": network(real), "fake": network(fake)}


@kind("training verdicts", r"train_(?:disc_)?logits_(fake_for_generator|real|fake)")
def _train_verdict(folder: Path, which: str) -> Tensor:
    return _verdicts(folder)[which]


@kind("training judgement", r"train_disc_(hinge|vanilla|weighted)", LOSS)
def _judgement(folder: Path, name: str) -> Tensor:
    real, fake = (_verdicts(folder)[which] for which in ("real", "fake"))
    if name == "weighted":
        x, objective = _picture(folder), _objective(folder)
        out = _model(folder)(x)._replace(reconstruction=tensors_of(folder)["train_rec"])
        (value,) = objective.discriminator_losses(x, out, 0).values()
        return value
    return {"hinge": discriminator_hinge, "vanilla": discriminator_vanilla}[name](real, fake)


@kind("adaptive weight", r"adaptive_weight", GRADIENT)
def _adaptive(folder: Path) -> Tensor:
    x, objective = _picture(folder), _objective(folder, adaptive_weight=True)
    with torch.enable_grad():
        objective.generator_losses(x, import_vqgan(folder).train()(x), 0)
    return torch.as_tensor(objective.last_statistics["adaptive_weight"])


# -- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "key"), KINDS.cases())
def test_vector(folder: Path, key: str) -> None:
    with torch.no_grad():
        KINDS.check(folder, key)


def test_every_kind_of_case_is_there() -> None:
    assert not KINDS.unused()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_sizes_read_off_the_shapes_are_the_config(folder: Path) -> None:
    config, settings = config_of(folder), _model(folder).settings
    encoder, decoder, options = settings.encoder, settings.decoder, settings.options
    ours = {
        "encoder_ch": encoder.channels, "z_channels": encoder.z_channels,
        "latent_channels": encoder.z_channels, "group_norm_groups": encoder.groups,
        "norm_num_groups": encoder.groups, "encoder_num_res_blocks": encoder.res_blocks,
        "decoder_num_res_blocks": decoder.res_blocks, "layers_per_block": encoder.res_blocks,
        "encoder_ch_mult": list(encoder.multipliers),
        "block_out_channels": list(encoder.widths), "dropout": encoder.dropout,
        "commit_loss_beta": options.commitment_weight,
        "entropy_loss_ratio": options.entropy_weight,
        "entropy_temperature": options.entropy_temperature,
        "codebook_used_length": options.usage_window,
        "codebook_l2_norm": _model(folder).config["l2_normalize"],
        "mid_block_add_attention": encoder.mid_attention,
    }  # fmt: skip
    assert ours.keys() & config.keys()
    for name in ours.keys() & config.keys():
        assert ours[name] == config[name], name
    if "decoder_ch_mult" in config:
        widths = [config["decoder_ch"] * m for m in config["decoder_ch_mult"]]
        assert list(decoder.widths) == widths
    if "down_block_types" in config:
        blocks = [kind.startswith("Attn") for kind in config["down_block_types"]]
        assert [encoder.attends(i) for i in range(len(blocks))] == blocks
        blocks = [kind.startswith("Attn") for kind in config["up_block_types"]]
        assert [decoder.attends(len(blocks) - 1 - i) for i in range(len(blocks))] == blocks


# -- full-size checkpoints -----------------------------------------------------------------------

MANIFESTS = [manifest_of(FOLDER), manifest_of(PARITY / "tokenflow")]
# Parameters that the papers' code counts (buffers left out), by layout and z channels.
COUNTS = {("llamagen", 5): 71_883_403, ("llamagen", 4): 70_109_835, ("var", 5): 108_948_355}


def _manifest() -> list[Any]:
    """Whole tokenizers of this family; TokenFlow's and discriminators are for others."""
    cases = []
    for entries in MANIFESTS:
        for name, rows in entries.items():
            tops = {key.partition(".")[0] for key, *_ in rows}
            if "quant_conv" in tops and not any(top.endswith("_vqkd") for top in tops):
                cases.append(pytest.param(name, rows, id=name.split(" ")[0]))
    return cases


@pytest.mark.parametrize("extras", [False, True], ids=["tokenizer", "with-training-extras"])
@pytest.mark.parametrize(("name", "rows"), _manifest())
def test_full_size_checkpoints_map_completely(name: str, rows: list[Any], extras: bool) -> None:
    state = meta_state(rows)
    more = {"loss.discriminator.main.0.weight": torch.empty(64, 3, 4, 4, device="meta")}
    model = vqgan_from_state(state | (more if extras else {}), name=name)
    layout = layout_of(state, name)
    official = [part for parts in official_names(model, layout).values() for part in parts]
    assert sorted(official) == sorted(state)
    count = sum(math.prod(p.shape) for p in model.parameters())
    levels = len(model.settings.encoder.widths)
    assert count == COUNTS.get((layout, levels), count)
    buffers = ("quantize.codebook_used", "quantize.ema_vocab_hit_SV")
    assert count == sum(math.prod(shape) for key, shape, _ in rows if key not in buffers)


def test_the_discriminator_has_the_published_size() -> None:
    entries = MANIFESTS[0].values()
    rows = [rows for rows in entries if any(key == "main.0.weight" for key, *_ in rows)]
    with torch.device("meta"):
        state = PatchDiscriminator().state_dict()
    for held in rows:
        assert {key: list(t.shape) for key, t in state.items()} == {k: s for k, s, _ in held}
    assert rows


def _flows() -> list[Any]:
    return [rows for rows in MANIFESTS[1].values() if any("_vqkd" in key for key, *_ in rows)]


@pytest.mark.parametrize("rows", _flows())
def test_a_tokenflow_file_is_told_apart(rows: list[Any]) -> None:
    with pytest.raises(WeightsError, match=r"recognised .*encoder.*not recognised .*_vqkd"):
        vqgan_from_state(meta_state(rows))
