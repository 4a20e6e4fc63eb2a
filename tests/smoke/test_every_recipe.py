"""Long runs (make smoke): every recipe trains through the command line and its model is used.

Networks of published recipes are shrunk; what makes a recipe (head, losses, freezing, draws,
optimizer) stays as it is written, but for weights that cannot be had without a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from audio_tok.dimension_wise_codec import DimensionWiseCodec
from audio_tok.kl_codec import KLCodec
from audio_tok.train import main as train_codec
from generators.contract import UNCONDITIONAL, Condition, fixed_spec
from generators.drawing import draw_codes
from generators.llamagen import LlamaGen
from generators.post_train import main as post_train
from tessera.cli import run
from tok_core.loading import load
from tok_core.run_config import read_recipe
from vision_tok.kl_autoencoder import KLAutoencoder
from vision_tok.maskgit_vqgan import MaskGitVQGAN
from vision_tok.one_d_piece import OneDPiece
from vision_tok.token_bridge import TokenBridgeTokenizer
from vision_tok.vqgan import VQGAN

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).resolve().parents[2]
EVERY = sorted((ROOT / "assets" / "configs").glob("*.yaml"))
OF_SOUND = ("wavtokenizer-", "dual-codec-", "kl-codec-")
CODECS = [path for path in EVERY if path.stem.startswith(OF_SOUND)]
SEQUENCES = [path for path in EVERY if path.stem.startswith("generator-")]
# Those that read token shards are trained in test_every_generator.py.
GENERATORS = [path for path in SEQUENCES if "path" not in read_recipe(path)["data"]]
AFTERWARDS = [path for path in EVERY if path.stem.startswith("post-train-")]
AFTER_CODECS = [path for path in AFTERWARDS if "segment" in read_recipe(path)["data"]]
RECIPES = [path for path in EVERY if path not in CODECS + SEQUENCES + AFTERWARDS]
# Scripts alone: what the scripts share is run by them.
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.py"))
            if "__main__" in path.read_text()]  # fmt: skip
STEPS = 12
TEACHER = {"hidden_channels": 32, "channel_mult": [1, 1, 1, 1], "num_res_blocks": 1,
           "z_channels": 8}  # fmt: skip
SMALL_NETWORK: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "num_tokens": 8, "codebook_size": 32,
    "encoder_size": {"width": 32, "layers": 1, "heads": 2},
    "decoder_size": {"width": 32, "layers": 1, "heads": 2},
}  # fmt: skip
SMALL_VQGAN: dict[str, Any] = {
    "encoder_sizes": {"channels": 32, "multipliers": [1, 2], "res_blocks": 1},
    "decoder_sizes": {"channels": 32, "multipliers": [1, 2], "res_blocks": 1},
    "image_size": 32, "codebook_size": 32,
}  # fmt: skip
SMALL_FLOW: dict[str, Any] = {
    "image_size": 32, "scales": [1, 2, 4], "codebook_size": 32,
    "semantic_encoder": {"sizes": {"patch_size": 8, "grid": 4, "width": 32, "layers": 1,
                                   "heads": 2, "mlp_width": 64}},
    "semantic_decoder": {"width": 32, "heads": 2, "depth": 1, "target_dim": 128},
    "encoder_sizes": {"channels": 32, "multipliers": [1, 1], "res_blocks": 1},
}  # fmt: skip
SMALL_ROBUS: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "codebook_size": 128, "code_dim": 8,
    "encoder_size": {"width": 128, "layers": 1, "heads": 4, "mlp_width": 64},
    "decoder_size": {"width": 64, "layers": 1, "heads": 2, "mlp_width": 64},
}  # fmt: skip
TRUNK = {"kind": "random", "readouts": [0],
         "sizes": {"patch_size": 8, "grid": 4, "width": 32, "layers": 1, "heads": 2,
                   "mlp_width": 64, "class_token": True}}  # fmt: skip
CLASSIFIER = {"kind": "classifier", "weights": str(ROOT / "assets/classifiers/procedural-v1"),
              "strides": [2, 1, 2, 2, 1]}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of this module, a tiny teacher, and the pictures of the commands."""
    folder = tmp_path_factory.mktemp("smoke")
    torch.manual_seed(0)
    MaskGitVQGAN(**TEACHER, codebook_size=24).save_pretrained(folder / "teacher")
    OneDPiece(**SMALL_NETWORK).save_pretrained(folder / "start")
    VQGAN(**SMALL_VQGAN).save_pretrained(folder / "vq")
    TokenBridgeTokenizer(SMALL_VAE, scale=1.0).save_pretrained(folder / "bridge")
    (folder / "photos").mkdir()
    for name in ("rocket", "china"):
        with Image.open(ROOT / "assets" / "images" / f"{name}.webp") as picture:
            picture.convert("RGB").resize((80, 60)).save(folder / "photos" / f"{name}.png")
    return folder


def overrides(name: str, recipe: dict[str, Any], folder: Path) -> list[str]:
    """Return the ``--set`` arguments that make a recipe small enough for a few steps here."""
    config, objective = recipe.get("model", {}).get("config", {}), recipe.get("objective", {})
    settings: dict[str, Any] = {
        "train.steps": STEPS, "train.batch_size": 4, "train.workers": 0, "train.device": "cpu",
        "train.mixed_precision": "none", "log.every": 4, "log.tracker": "none",
        "log.validate_every": 6, "validation_images": 4, "schedule.warmup": 2,
    }  # fmt: skip
    if recipe.get("model", {}).get("class") == "VQGAN":
        settings |= {"data.source": "natural", "data.size": 32, "data.mixture": "{}"}
        settings |= {f"model.config.{key}": value for key, value in SMALL_VQGAN.items()}
        if config.get("scales"):
            settings["model.config.scales"] = [1, 2, 4, 16]
    elif recipe.get("model", {}).get("class") == "TokenFlow":
        settings |= {"data.source": "natural", "data.size": 32, "data.mixture": "{}"}
        settings |= {f"model.config.{key}": value for key, value in SMALL_FLOW.items()}
        if objective.get("semantic_teacher"):
            settings["objective.semantic_teacher"] = CLASSIFIER
        if config.get("decoder_sizes"):
            settings["model.config.decoder_sizes"] = SMALL_FLOW["encoder_sizes"]
    elif recipe.get("model", {}).get("class") == "RobusTok":
        if "epoch_steps" in recipe["schedule"]:  # a published network
            settings |= {"data.source": "natural", "data.size": 32, "train.batch_size": 10}
            settings |= {f"model.config.{key}": value for key, value in SMALL_ROBUS.items()}
            settings |= {"objective.semantic_teacher": CLASSIFIER, "schedule.warmup": 0,
                         "objective.discriminator_trunk": TRUNK}
            if config.get("scales"):
                settings["model.config.scales"] = [1, 1, 2, 4]
    elif recipe.get("model", {}).get("class") == "KLAutoencoder":
        settings |= {"data.source": "natural", "data.mixture": "{}"}
    elif not config.get("stem"):  # a published network; ours are small enough as they are
        settings |= {"data.source": "natural", "data.size": 32}
        if config:
            settings |= {f"model.config.{key}": value for key, value in SMALL_NETWORK.items()}
        else:
            settings["model.from"] = folder / "start"
    if config.get("head") == "legacy":
        settings["model.config.proxy_codebook_size"] = 24
    if objective.get("target") == "proxy_codes":
        settings["objective.teacher"] = folder / "teacher"
    settings |= begun_with(recipe.get("model", {}), folder)
    if objective.get("perceptual") in ("convnext", "lpips", "mixed"):
        settings["objective.perceptual"] = "weightless"
    if objective.get("discriminator"):
        settings |= {"objective.discriminator_start": 4, "objective.discriminator_channels": 32,
                     "objective.discriminator_stages": 1}  # fmt: skip
        if objective.get("discriminator_head_start"):
            settings["objective.discriminator_head_start"] = 2
    return [f"--set={key}={value}" for key, value in settings.items()]


def begun_with(model: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings that let a recipe go on from the small model of its first stage."""
    if "from" not in model:
        return {}
    stage1 = folder / Path(model["from"]).parent.name / "model"
    if model.get("class") == "VQGAN":
        return {"model.from": folder / "vq"}
    if model.get("class") == "TokenFlow":
        return {"model.from": stage1}
    return {
        "model.from": stage1, "model.config.pixel_decoder": TEACHER,
        "model.parts": {
            "pixel_stage.codebook": f"{folder / 'teacher'}#quantizer.codebook",
            "pixel_stage.decoder": f"{folder / 'teacher'}#decoder",
        },
    }  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains_and_its_model_works(path: Path, folder: Path) -> None:
    """Stage 2 takes the model of stage 1, which comes before it in the alphabet."""
    run_folder = folder / path.stem
    settings = overrides(path.stem, read_recipe(path), folder)
    assert run(["train", "--config", str(path), "--out", str(run_folder), *settings]) == 0
    model = load(run_folder / "model")
    if isinstance(model, KLAutoencoder):  # continuous: the commands take the tokenizer over it
        batches = [torch.rand(4, 3, 64, 64) * 2 - 1]
        model = TokenBridgeTokenizer.calibrated(model, batches)
        model.save_pretrained(run_folder / "model")
    if getattr(getattr(model, "settings", None), "head", "") == "legacy" and "stage1" in path.stem:
        return  # proxy codes are no pictures yet; stage 2 paints them
    out = run_folder / "again"
    words = ["reconstruct", folder / "photos", "-o", out, "-m", run_folder / "model"]
    assert run([str(word) for word in words]) == 0
    for picture in (folder / "photos").iterdir():
        with Image.open(out / picture.name) as made:
            assert made.size == (80, 60)


SMALL_CODEC: dict[str, Any] = {"encoder_width": 4}
# By class of the codec: the width of the latents that become sound, and what else is its own.
SMALL_PARTS: dict[str, dict[str, Any]] = {
    "WavTokenizer": {
        "codebook_size": 64, "latent_dim": 16, "width": 32, "hidden": 64, "layers": 2,
    },
    "KLCodec": {"latent_dim": 8, "width": 32, "hidden": 64, "layers": 2},
    "DualWavTokenizer": {
        "codebook_size": 64, "acoustic_dim": 16,
        "decoder.width": 32, "decoder.hidden": 64, "decoder.layers": 2,
        "semantic.encoder_width": 4, "semantic.width": 32, "semantic.hidden": 48,
        "semantic.layers": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("path", CODECS, ids=lambda path: path.stem)
def test_codec_recipe_trains_and_its_model_works(path: Path, folder: Path) -> None:
    small = SMALL_CODEC | SMALL_PARTS[read_recipe(path)["model"]["class"]]
    settings: dict[str, Any] = {
        "train.steps": STEPS, "train.batch_size": 4, "train.workers": 0, "train.device": "cpu",
        "log.every": 4, "log.tracker": "none", "log.validate_every": 6, "validation_sounds": 2,
        "schedule.warmup": 2, "data.segment": 9600, "data.source": "mixed", "data.mixture": "{}",
        **{f"model.config.{key}": value for key, value in small.items()},
        "objective.period.channels": "[4, 4, 4]", "objective.resolution.channels": 4,
        "objective.dac.channels": "[4, 4, 4]", "objective.dac.band_channels": 4,
    }  # fmt: skip
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run_folder = folder / path.stem
    assert train_codec(["--config", str(path), "--out", str(run_folder), *options]) == 0
    model: Any = load(run_folder / "model")
    x = torch.rand(1, 1, 7001) - 0.5
    if isinstance(model, KLCodec):
        model = DimensionWiseCodec.calibrated(model, [x])
    assert model.decode(model.encode(x)).shape == x.shape


SMALL_VAE = {"block_out_channels": [8, 8, 16], "layers_per_block": 1, "latent_channels": 4,
             "norm_num_groups": 4, "sample_size": 32}  # fmt: skip
# Published recipes name folders of pictures and tokenizers that nobody has here.
SMALL_BRIDGE: dict[str, Any] = {
    "data.signals": "{source: classes, size: 32}", "data.classes": 12,
    "model.config.buffer": 4, "model.config.head_width": 16, "model.config.head_layers": 1,
    "model.config.head_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("path", GENERATORS, ids=lambda path: path.stem)
def test_generator_recipe_trains_and_its_model_draws(path: Path, folder: Path) -> None:
    settings: dict[str, Any] = {
        "train.steps": STEPS, "train.batch_size": 4, "train.workers": 0, "train.device": "cpu",
        "log.every": 4, "log.tracker": "none", "log.validate_every": 6, "log.pictures_every": 6,
        "validation_samples": 4, "shown": 2, "schedule.warmup": 2,
        "model.config.width": 48, "model.config.layers": 1, "model.config.heads": 2,
        "train.mixed_precision": "none",
    }  # fmt: skip
    recipe = read_recipe(path)
    tokenizer = recipe["data"]["tokenizer"]
    if recipe["model"]["class"] == "TokenBridge":
        tokenizer = str(folder / "bridge")
        settings |= SMALL_BRIDGE | {"data.tokenizer": tokenizer}
    options = [f"--set={key}={value}" for key, value in settings.items()]
    out = folder / path.stem
    words = ["train", "--modality", "tokens", "--config", str(path), "--out", str(out), *options]
    assert run(words) == 0
    model: Any = load(out / "model")
    labels = Condition(labels=torch.tensor([0])) if model.classes else UNCONDITIONAL
    codes = draw_codes(model, labels, seeds=[0])
    model.spec.check(codes)
    model.check_fits(load(tokenizer))


@pytest.mark.parametrize("path", AFTER_CODECS, ids=lambda path: path.stem)
def test_post_training_recipe_trains_the_decoder_of_a_codec(path: Path, tmp_path: Path) -> None:
    """The shipped codec, and a generator of half a second in place of the recipe's."""
    codec: Any = load(ROOT / read_recipe(path)["model"]["from"])
    torch.manual_seed(0)
    LlamaGen(
        spec=fixed_spec(codec.spec, (1, 50)).to_json(), code_hash=codec.code_hash(), width=32,
        layers=1, heads=2,
    ).save_pretrained(tmp_path / "generator")  # fmt: skip
    settings: dict[str, Any] = {
        "train.steps": 4, "train.batch_size": 2, "train.workers": 0, "train.device": "cpu",
        "log.every": 2, "log.tracker": "none", "log.validate_every": 3, "validation_sounds": 2,
        "schedule.warmup": 2, "data.segment": 12000, "data.pairs.count": 4,
        "data.pairs.generator": tmp_path / "generator", "data.pairs.path": tmp_path / "pairs",
    }  # fmt: skip
    words = ["--config", str(path), "--out", str(tmp_path / "run")]
    assert post_train([*words, *(f"--set={key}={value}" for key, value in settings.items())]) == 0
    model = load(tmp_path / "run" / "model")
    assert model.code_hash() == codec.code_hash() and model.weights_hash() != codec.weights_hash()


@pytest.mark.parametrize(
    "path", [path for path in AFTERWARDS if path not in AFTER_CODECS], ids=lambda path: path.stem
)
def test_post_training_recipe_trains_a_decoder(path: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"channels": 32, "multipliers": [1, 1, 1, 1], "res_blocks": 1, "attention": []}
    tokenizer = VQGAN(**SMALL_VQGAN | {"encoder_sizes": sizes, "decoder_sizes": sizes}).eval()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    LlamaGen(
        spec=fixed_spec(tokenizer.spec).to_json(), code_hash=tokenizer.code_hash(), classes=12,
        width=32, layers=1, heads=2,
    ).save_pretrained(tmp_path / "generator")  # fmt: skip
    objective = read_recipe(path)["objective"]
    settings: dict[str, Any] = {
        "train.steps": STEPS, "train.batch_size": 4, "train.workers": 0, "train.device": "cpu",
        "train.mixed_precision": "none", "log.every": 4, "log.tracker": "none",
        "log.validate_every": 6, "validation_images": 4, "schedule.warmup": 2,
        "model.from": tmp_path / "tokenizer", "data.source": "classes", "data.size": 32,
        "data.pairs.generator": tmp_path / "generator", "data.pairs.path": tmp_path / "pairs",
        "data.pairs.count": 6, "export.dtype": "float32", "objective.perceptual": "weightless",
    }  # fmt: skip
    if objective.get("discriminator"):
        settings |= {"objective.discriminator_trunk": TRUNK, "schedule.warmup": 0}
    words = ["--config", str(path), "--out", str(tmp_path / "run")]
    assert post_train([*words, *(f"--set={key}={value}" for key, value in settings.items())]) == 0
    model = load(tmp_path / "run" / "model")
    assert model.code_hash() == tokenizer.code_hash()
    assert model.weights_hash() != tokenizer.weights_hash()


@pytest.mark.parametrize(
    "path", EXAMPLES, ids=lambda path: path.stem
)
def test_example_runs(path: Path, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    # What takes minutes says --small in its text, and runs in test_examples_end_to_end.py too.
    small = ["--small"] if "--small" in path.read_text() else []
    done = subprocess.run(
        [sys.executable, str(path), *small], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
