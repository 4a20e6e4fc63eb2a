"""Pushing a pipeline: what reaches the hub is what save_pretrained writes, card included."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

from generators.contract import fixed_spec
from generators.llamagen import LlamaGen
from generators.pipeline_card import MARK, NOT_STATED
from generators.pipelines import TokenAudioPipeline, TokenImagePipeline, TokenPipeline
from tests.tiny_audio import tiny_codec
from vision_tok.vqgan import VQGAN


@pytest.fixture(scope="module")
def pipe() -> TokenImagePipeline:
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2], "res_blocks": 1, "attention": []}
    tokenizer = VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=8,
    ).eval()  # fmt: skip
    generator = LlamaGen(
        spec=fixed_spec(tokenizer.spec).to_json(), code_hash=tokenizer.code_hash(), classes=5,
        width=32, layers=1, heads=2,
    ).eval()  # fmt: skip
    return TokenImagePipeline(generator, tokenizer)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the hub's client was asked to do; there is no network in tests."""
    asked: list[dict[str, Any]] = []

    def create_repo(repo_id: str, **options: Any) -> Any:
        asked.append({"create": repo_id, **options})
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(*, folder_path: Path, **options: Any) -> str:
        asked.append({"files": contents(Path(folder_path)), **options})
        return f"https://huggingface.co/{options['repo_id']}"

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    return asked


def test_the_upload_is_what_is_saved(
    pipe: TokenImagePipeline, uploads: list[dict[str, Any]], tmp_path: Path
) -> None:
    address = pipe.push_to_hub("me/cats", licence="cc-by-4.0", private=True, create_pr=True)
    assert address == "https://huggingface.co/me/cats"
    pipe.save_pretrained(tmp_path / "saved", repo_id="me/cats", licence="cc-by-4.0")
    created, sent = uploads
    assert created == {"create": "me/cats", "private": True, "token": None, "exist_ok": True}
    assert sent["files"] == contents(tmp_path / "saved")
    assert set(sent["files"]) == {
        "README.md", "model_index.json", "generator/config.json",
        "generator/diffusion_pytorch_model.safetensors", "tokenizer/config.json",
        "tokenizer/diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    assert sent["repo_id"] == "me/cats" and sent["create_pr"] is True
    # What was sent is a pipeline.
    for name, data in sent["files"].items():
        place = tmp_path / "there" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    again = TokenPipeline.from_pretrained(tmp_path / "there")
    assert again.generator.weights_hash() == pipe.generator.weights_hash()


def test_saving_can_push(
    pipe: TokenImagePipeline, uploads: list[dict[str, Any]], tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "cats", push_to_hub=True, token="secret")
    assert uploads[0]["create"] == "cats" and uploads[1]["token"] == "secret"
    assert uploads[1]["files"] == contents(tmp_path / "cats")
    assert not any(b"secret" in data for data in uploads[1]["files"].values())


def test_the_card(pipe: TokenImagePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "cats", licence="apache-2.0")
    card = ModelCard.load(tmp_path / "cats" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "tessera"
    assert pipe.tokenizer.code_hash() in card.text
    assert "labels 0 to 4" in card.text and "| licence | apache-2.0 |" in card.text
    # Its snippet loads the pipeline from where it lies.
    snippet = card.text.split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {}
    exec(snippet.replace('"cats"', repr(str(tmp_path / "cats"))), found)
    assert len(found["made"].images) == 1


def test_a_card_without_licence_says_so(tmp_path: Path) -> None:
    codec = tiny_codec()
    spec = fixed_spec(codec.spec, (codec.spec.axes[0].size, 6))
    generator = LlamaGen(spec=spec.to_json(), width=32, layers=1, heads=2, caption_width=6).eval()
    TokenAudioPipeline(generator, codec).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert NOT_STATED in card.text and card.data.license == "unknown"
    assert "captions of up to 120 features, 6 wide" in card.text
    assert card.data.pipeline_tag == "text-to-audio"


def test_a_card_that_somebody_wrote_stays(pipe: TokenImagePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    first = (tmp_path / "README.md").read_text()
    assert MARK in first
    pipe.save_pretrained(tmp_path, licence="mit")
    assert (tmp_path / "README.md").read_text() != first
    (tmp_path / "README.md").write_text("# Mine\n")
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
