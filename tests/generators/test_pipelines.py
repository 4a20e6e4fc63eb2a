"""Pipelines: saved, loaded in a fresh process, seeds, hostile folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generators.contract import fixed_spec
from generators.llamagen import LlamaGen
from generators.maskgit import MaskGIT
from generators.pipelines import INDEX, TokenAudioPipeline, TokenImagePipeline
from tests import warm_python
from tests.tiny_audio import tiny_codec
from tok_core.errors import ConfigError, TokenError, WeightsError
from vision_tok.vqgan import VQGAN

ROOT = Path(__file__).resolve().parents[2]
SIZES: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2}


def vqgan(seed: int = 0) -> VQGAN:
    torch.manual_seed(seed)
    side = {"channels": 8, "multipliers": [1, 2], "res_blocks": 1, "attention": []}
    return VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=8,
    ).eval()  # fmt: skip


def generator_of(tokenizer: Any, kind: type[Any] = LlamaGen, **options: Any) -> Any:
    torch.manual_seed(1)
    spec = fixed_spec(tokenizer.spec, options.pop("sizes", None)).to_json()
    made = kind(spec=spec, code_hash=tokenizer.code_hash(), **SIZES, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


@pytest.fixture(scope="module")
def pipe() -> TokenImagePipeline:
    tokenizer = vqgan()
    return TokenImagePipeline(generator_of(tokenizer, classes=5), tokenizer)


@pytest.fixture(scope="module")
def folder(pipe: TokenImagePipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pipe")
    pipe.save_pretrained(place)
    return place


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pictures_follow_their_seeds(pipe: TokenImagePipeline) -> None:
    first = pipe([0, 4], guidance_scale=2.0, generator=seeded())
    assert [picture.size for picture in first.images] == [(8, 8)] * 2
    again = pipe([0, 4], guidance_scale=2.0, generator=seeded(), output_type="np").images
    assert np.array_equal(np.stack([np.asarray(p) for p in first.images]), again)
    own = [seeded(7), seeded(8)]
    both = pipe([1, 1], generator=own, output_type="pt").images
    alone = pipe(1, generator=[seeded(8)], output_type="pt").images
    torch.testing.assert_close(both[1:], alone)
    assert len(pipe([1, 2], num_per_label=3).images) == 6


def test_a_fresh_process_loads_and_draws_the_same(
    pipe: TokenImagePipeline, folder: Path, tmp_path: Path
) -> None:
    index = json.loads((folder / INDEX).read_text())
    assert index["_class_name"] == "TokenImagePipeline"
    program = (
        "import sys, numpy, torch\n"
        "from generators.pipelines import TokenImagePipeline\n"
        "pipe = TokenImagePipeline.from_pretrained(sys.argv[1])\n"
        "seed = torch.Generator().manual_seed(3)\n"
        "numpy.save(sys.argv[2], pipe([2], generator=seed, output_type='np').images)\n"
    )
    out = tmp_path / "made.npy"
    done = warm_python.run("-c", program, str(folder), str(out), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours = pipe([2], generator=seeded(), output_type="np").images
    assert np.abs(np.load(out).astype(int) - ours.astype(int)).max() <= 1


def test_other_generators_and_sounds() -> None:
    tokenizer = vqgan()
    masked = TokenImagePipeline(generator_of(tokenizer, MaskGIT, classes=5), tokenizer)
    assert len(masked([1], num_inference_steps=4, generator=seeded()).images) == 1
    codec = tiny_codec()
    levels = codec.spec.axes[0].size
    sound = TokenAudioPipeline(generator_of(codec, sizes=(levels, 6)), codec)
    made = sound(generator=seeded(), num_per_label=2)
    assert made.audios.shape[:2] == (2, 1) and made.sampling_rate == codec.spec.output_rate
    assert np.abs(made.audios).max() <= 1


def test_a_given_component_replaces_the_stored_one(folder: Path) -> None:
    other = vqgan()
    pipe = TokenImagePipeline.from_pretrained(folder, tokenizer=other)
    assert pipe.tokenizer is other
    with pytest.raises(TokenError, match="code hash"):
        TokenImagePipeline.from_pretrained(folder, tokenizer=vqgan(seed=5))


@pytest.mark.parametrize(("index", "error"), [
    ({"_class_name": "StableDiffusionPipeline"}, "holds a 'StableDiffusionPipeline'; known are"),
    ({"_class_name": "TokenAudioPipeline"}, "look at 'generator'"),
    ({"generator": ["os", "system"], "tokenizer": ["a", "b"], "evil": ["subprocess", "Popen"]},
     "look at 'evil'"),
    ([1], "holds list; expected a JSON object"),
    ("{", "is not readable JSON"),
])  # fmt: skip
def test_hostile_indexes_run_nothing(tmp_path: Path, index: Any, error: str) -> None:
    if isinstance(index, dict):
        index = {"_class_name": "TokenImagePipeline"} | index
    (tmp_path / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))
    with pytest.raises(WeightsError, match=error):
        TokenImagePipeline.from_pretrained(tmp_path)


def test_foreign_modules_in_the_index_are_not_imported(folder: Path, tmp_path: Path) -> None:
    """What an index says about components decides nothing; their own config.json does."""
    import shutil

    shutil.copytree(folder, tmp_path / "pipe")
    index = json.loads((folder / INDEX).read_text())
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('imported')\n")
    index["generator"] = ["hostile_module", "LlamaGen"]
    (tmp_path / "pipe" / INDEX).write_text(json.dumps(index))
    sys.path.insert(0, str(tmp_path))
    try:
        pipe = TokenImagePipeline.from_pretrained(tmp_path / "pipe")
    finally:
        sys.path.remove(str(tmp_path))
    assert isinstance(pipe.generator, LlamaGen) and "hostile_module" not in sys.modules


def test_wrong_use_is_a_sentence(pipe: TokenImagePipeline, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="label 5 is out of range; legal is 0 to 4"):
        pipe([5])
    with pytest.raises(ConfigError, match="output_type 'jpg' is unknown"):
        pipe([1], output_type="jpg")
    with pytest.raises(ConfigError, match="give whole numbers"):
        pipe([0.5])
    with pytest.raises(ConfigError, match="2 generators came in for 1 samples"):
        pipe([1], generator=[seeded(), seeded()])
    with pytest.raises(ConfigError, match="takes one per position"):
        pipe([1], num_inference_steps=4)
    with pytest.raises(WeightsError, match="holds a TokenImagePipeline, not a TokenAudioPipeline"):
        TokenAudioPipeline.from_pretrained(folder)
    with pytest.raises(WeightsError, match=f"holds no {INDEX}"):
        TokenImagePipeline.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="makes audios but the tokens are of images"):
        TokenAudioPipeline(pipe.generator, pipe.tokenizer)
