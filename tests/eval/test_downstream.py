"""Downstream networks on reconstructions: measures by hand, names, budgets, labels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eval.downstream import (
    ClassAgreement,
    DepthError,
    Downstream,
    SegmentAgreement,
    folder_labels,
)
from eval.downstream_model import DownstreamModel, centre_square, load_downstream
from tests.eval.tiny_tokenizers import pictures, tiny_titok
from tok_core.errors import ConfigError, MediaError, WeightsError
from tok_core.image_measures import to_uint8
from tok_core.torchaudio_guard import guard_torchaudio


def logits(classes: list[int], count: int = 8) -> Tensor:
    """Rank classes upwards from the wanted one: c, c + 1, ..."""
    order = (torch.arange(count)[None] - torch.tensor(classes)[:, None]) % count
    return -order.float()


# -- measures ------------------------------------------------------------------------------------


def test_agreement_and_accuracy() -> None:
    score = ClassAgreement()
    score.update(logits([0, 1]), logits([0, 0]), torch.tensor([0, 5]))
    score.update(logits([2, 3]), logits([3, 0]), torch.tensor([2, 3]))
    found = {name: float(value) for name, value in score.compute().items()}
    # Among five from c upwards: 0 in 0.., 1 in 0.., 2 not in 3..7, 3 in 0..4.
    assert found == {
        "top1_agreement": 0.25, "top5_agreement": 0.75, "top1_accuracy": 0.25,
        "top5_accuracy": 0.5, "top1_accuracy/original": 0.75, "top5_accuracy/original": 1.0,
        "samples": 4.0,
    }  # fmt: skip
    without = ClassAgreement()
    without.update(logits([0, 1], 3), logits([0, 0], 3))
    assert set(without.compute()) == {"top1_agreement", "top5_agreement", "samples"}
    assert float(without.compute()["top5_agreement"]) == 1


def test_overlap_of_class_maps() -> None:
    score = SegmentAgreement(5)
    truth = torch.tensor([[[0, 0, 1, 1]], [[2, 2, 2, -1]]])
    found = torch.tensor([[[0, 1, 1, 1]], [[2, 2, 0, 2]]])
    score.update(truth[:1], found[:1])
    score.update(truth[1:], found[1:])
    values = score.compute()
    # 0: 1 of 3, 1: 2 of 3, 2: 2 of 3; classes 3 and 4 occur nowhere.
    assert float(values["miou"]) == pytest.approx((1 / 3 + 2 / 3 + 2 / 3) / 3)
    assert float(values["pixel_agreement"]) == pytest.approx(5 / 7)
    assert float(values["classes"]) == 3
    with pytest.raises(ConfigError, match="5 classes"):
        score.update(truth + 3, found)


def test_depth_errors() -> None:
    truth = torch.tensor([[[1.0, 2.0, 4.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]])
    found = torch.tensor([[[1.1, 3.0, 4.0, 9.0]], [[1.0, 1.0, 1.0, 1.0]]])
    score = DepthError()
    score.update(truth, found)
    values = {name: float(value) for name, value in score.compute().items()}
    assert values["abs_rel"] == pytest.approx((0.1 + 0.5 + 0.0) / 3, rel=1e-6)
    assert values["rmse"] == pytest.approx(((0.01 + 1.0) / 3) ** 0.5, rel=1e-6)
    assert values["delta1"] == pytest.approx(2 / 3)
    assert values["l1"] == pytest.approx(1.1 / 3, rel=1e-6)
    assert values["cosine"] == pytest.approx(23.1 / (21 * 26.21) ** 0.5, rel=1e-6)
    assert (values["samples"], values["without_depth"]) == (1, 1)
    aligned = DepthError("median")
    aligned.update(truth[:1], 7 * truth[:1])
    assert float(aligned.compute()["abs_rel"]) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ConfigError, match="median"):
        DepthError("mean")


# -- a network over budgets ----------------------------------------------------------------------


def blue(threshold: Tensor) -> Tensor:
    """Two classes by the mean of the third channel against the first."""
    mean = threshold.float().mean((2, 3)) / 255
    return torch.stack([mean[:, 0], mean[:, 2]], 1)


def network(predict: Any = blue, task: str = "classify", **more: Any) -> DownstreamModel:
    return DownstreamModel(name="test", task=task, predict=predict, **more)


def test_every_budget_of_a_tokenizer() -> None:
    model, x = tiny_titok(), pictures(12)
    labels = torch.arange(12) % 2
    score = Downstream(network(), model, [2, None])
    score.update(x[:5], labels[:5])
    score.update(x[5:], labels[5:])
    found = {name: float(value) for name, value in score.compute().items()}
    truth = blue(to_uint8(x)).argmax(1)
    for name, budget in (("2", 2), ("all", None)):
        made = to_uint8(model.decode(model.encode(x, num_tokens=budget)))
        ours = blue(made).argmax(1)
        agreement = float((ours == truth).double().mean())
        assert found[f"downstream/{name}/top1_agreement"] == pytest.approx(agreement)
        accuracy = float((ours == labels).double().mean())
        assert found[f"downstream/{name}/top1_accuracy"] == pytest.approx(accuracy)
    assert not any("latent_tokens" in name for name in score.state_dict())
    score.reset()
    score.update(x)
    assert float(score.compute()["downstream/all/samples"]) == 12


def test_a_perfect_reconstruction_agrees() -> None:
    x = pictures(6)

    def cells(pictures: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(pictures.float(), 4)
        return small  # the colour of each cell, as three classes

    def depth(pictures: Tensor) -> Tensor:
        return pictures.float().mean(1) + 1

    same = Downstream(network(cells, "segment"), lambda x, _: x, classes=3)
    same.update(x)
    assert float(same.compute()["downstream/all/miou"]) == 1
    deep = Downstream(network(depth, "depth"), lambda x, budget: x * (budget or 1), [1])
    deep.update(x)
    found = deep.compute()
    assert float(found["downstream/1/rmse"]) == 0
    assert float(found["downstream/1/delta1"]) == 1
    worse = Downstream(network(cells, "segment"), lambda x, _: x.flip(1), classes=3)
    worse.update(x)
    assert float(worse.compute()["downstream/all/miou"]) < 0.5


def test_wrong_use_is_told() -> None:
    with pytest.raises(ConfigError, match="each once"):
        Downstream(network(), tiny_titok(), [2, 2])
    with pytest.raises(ConfigError, match="number of classes"):
        Downstream(network(task="segment"), tiny_titok())
    with pytest.raises(MediaError, match="same size"):
        Downstream(network(), lambda x, _: x[..., :8, :8]).update(pictures(2))
    with pytest.raises(ConfigError, match="2 axes"):
        Downstream(network(lambda x: x.float()), lambda x, _: x).update(pictures(2))


def test_labels_from_folders() -> None:
    files = ["d/cat/1.png", "d/ant/2.png", "d/cat/3.png"]
    labels, numbering = folder_labels(files)
    assert labels.tolist() == [1, 0, 1]
    assert numbering == {"ant": 0, "cat": 1}
    assert folder_labels(files, {"cat": 7, "ant": 2})[0].tolist() == [7, 2, 7]
    with pytest.raises(ConfigError, match="'ant'"):
        folder_labels(files, {"cat": 7})


# -- names ---------------------------------------------------------------------------------------


def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_networks.py").write_text(
        "import torch\n"
        "def brightness(pictures):\n"
        "    return pictures.float().mean((2, 3))\n"
        "class Net(torch.nn.Module):\n"
        "    classes = {'cat': 0, 'dog': 1}\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = torch.nn.Parameter(torch.ones(2))\n"
        "    def forward(self, pictures):\n"
        "        return pictures.float().mean((2, 3))[:, :2] * self.scale\n"
        "ready = Net()\n"
        "wrong = lambda pictures: pictures[:1]\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    x = to_uint8(pictures(3))
    plain = load_downstream("my_networks:brightness", "classify")
    assert plain.predict(x).shape == (3, 3)
    assert plain.weights is None
    for name in ("Net", "ready"):
        net = load_downstream(f"my_networks:{name}", "classify")
        assert net.predict(x).shape == (3, 2)
        assert not net.predict(x).requires_grad
        assert net.classes == {"cat": 0, "dog": 1}
        assert net.weights is not None
    with pytest.raises(ConfigError, match="one row for each"):
        load_downstream("my_networks:wrong", "classify").predict(x)
    for name in ("my_networks:missing", "no_such_module:f", "my_networks:number"):
        with pytest.raises(ConfigError, match="entry point"):
            load_downstream(name, "classify")
    with pytest.raises(ConfigError, match="did you mean 'segment'"):
        load_downstream("my_networks:brightness", "segmnt")
    sys.modules.pop("my_networks")


def test_a_transformers_classifier_in_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    guard_torchaudio()
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16, "image_size": 16, "patch_size": 8}  # fmt: skip
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**sizes, num_labels=7)).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    x = to_uint8(pictures(3))
    for name in (str(tmp_path), f"transformers:{tmp_path}"):
        found = load_downstream(name, "classify")
        assert len(found.classes) == 7
        # This processor maps 0..255 to [-1, 1] at the picture's own size.
        with torch.no_grad():
            expected = model(x.float() / 127.5 - 1).logits
        assert torch.allclose(found.predict(x), expected, atol=1e-4)
    score = Downstream(load_downstream(str(tmp_path), "classify"), tiny_titok(), [1, None])
    score.update(pictures(4))
    assert float(score.compute()["downstream/1/samples"]) == 4


def test_missing_networks_are_never_fetched(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    for name in (str(tmp_path), "transformers:nobody/no-such-network"):
        with pytest.raises(WeightsError, match="nothing is downloaded"):
            load_downstream(name, "depth")
    with pytest.raises(ConfigError, match="timm"):
        load_downstream("timm:resnet18", "segment")


def test_the_centre_of_a_picture() -> None:
    wide = torch.zeros(1, 3, 8, 24, dtype=torch.uint8)
    wide[..., 8:16] = 255
    assert centre_square(wide, 8).shape == (1, 3, 8, 8)
    assert float(centre_square(wide, 8).mean()) == 1
    assert float(centre_square(wide, 4, share=0.5).mean()) == 1
    steps = centre_square(to_uint8(pictures(1)), 11, mode="bilinear") * 255
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    with pytest.raises(ConfigError, match="nearest"):
        centre_square(wide, 8, mode="nearest")
