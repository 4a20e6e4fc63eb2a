"""How the procedural classifier is trained: the whole recipe, run by `eval.procedural_classifier`.

    labelled procedural pictures ──flip, swap and invert colours──▶ network with batch norms
                                  ──fold, float16──▶ model.safetensors, classifier.json, README.md

Same seed, machine and thread count: same bytes. Letters: B pictures of a step.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.feature_extractor import fold_batch_norm
from eval.procedural_classifier import (
    FACTS,
    LAYERS,
    RESIZE,
    SIDE,
    VERSION,
    WEIGHTS,
    ProceduralClassifier,
)
from tok_core.atomic_write import check_free, write_bytes
from tok_core.errors import TesseraError
from tok_core.procedural_images import ProceduralClasses

EPSILON = 1e-5
TEST_SEED_OFFSET = 1000  # another endless set: no picture is in both


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run of the classifier.

    Args:
        pictures: painted once, seen again and again with other colours. steps, batch: of AdamW.
        rate: peak of the one-cycle schedule. decay: of the weights. smoothing: of the labels.
        test_pictures: of another seed, never trained on.
    """

    seed: int = 0
    pictures: int = 6000
    steps: int = 1100
    batch: int = 32
    rate: float = 4e-3
    decay: float = 0.02
    smoothing: float = 0.05
    test_pictures: int = 1200


class TrainingNetwork(nn.Module):
    """The classifier with its batch norms still apart."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        folded = ProceduralClassifier(classes)
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for layer in folded.convolutions:
            assert isinstance(layer, nn.Conv2d)
            self.convolutions.append(nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size,  # type: ignore[arg-type]
                layer.stride, layer.padding, bias=False,  # type: ignore[arg-type]
            ))  # fmt: skip
            self.norms.append(nn.BatchNorm2d(layer.out_channels, eps=EPSILON))
        self.head = nn.Linear(folded.head.in_features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 12) of (B, 3, 64, 64) in [-1, 1]."""
        means = []
        for layer, norm, (_, _, _, tapped) in zip(
            self.convolutions, self.norms, LAYERS, strict=True
        ):
            x = F.relu(norm(layer(x)), inplace=True)
            if tapped:
                means.append(x.mean((2, 3)))
        return self.head(torch.cat(means, 1))

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """Return the state of the `ProceduralClassifier` that it becomes, in float16."""
        state = {"head.weight": self.head.weight, "head.bias": self.head.bias}
        for i, (layer, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            assert isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None and norm.running_var is not None
            weight, bias = fold_batch_norm(
                layer.weight, gain=norm.weight, shift=norm.bias, mean=norm.running_mean,
                variance=norm.running_var, epsilon=EPSILON,
            )  # fmt: skip
            state[f"convolutions.{i}.weight"], state[f"convolutions.{i}.bias"] = weight, bias
        return {key: value.detach().half().contiguous() for key, value in state.items()}


def painted(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return ``count`` labelled pictures: uint8 (N, 3, 64, 64) and labels (N,)."""
    source = ProceduralClasses(SIDE, seed)
    images = torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    for i in range(count):
        pixels, labels[i] = source.pixels(i)
        images[i] = torch.from_numpy(pixels).permute(2, 0, 1)
    return images, labels


def varied(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, permute and invert the colours of each picture (B, 3, H, W) of [-1, 1] at random.

    No class changes its name by any of it.
    """
    draws = torch.rand(len(x), 5, generator=generator)
    channels = draws[:, :3].argsort(1)
    x = x.gather(1, channels[:, :, None, None].expand_as(x))
    x = torch.where((draws[:, 3] < 0.5).view(-1, 1, 1, 1), x.flip(3), x)
    return torch.where((draws[:, 4] < 0.5).view(-1, 1, 1, 1), -x, x)


def train(recipe: Recipe) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Return the folded float16 state and the log of one run."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    images, labels = painted(recipe.seed, recipe.pictures)
    network = TrainingNetwork(len(ProceduralClasses.class_names))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.rate, weight_decay=recipe.decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.15
    )
    log: list[dict[str, float]] = []
    order = torch.empty(0, dtype=torch.int64)
    start = time.perf_counter()
    for step in range(1, recipe.steps + 1):
        if len(order) < recipe.batch:
            order = torch.randperm(recipe.pictures, generator=generator)
        chosen, order = order[: recipe.batch], order[recipe.batch :]
        x = varied(images[chosen].float() / 127.5 - 1.0, generator)
        logits = network(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, labels[chosen], label_smoothing=recipe.smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, recipe.steps // 15) == 0:
            right = (logits.argmax(1) == labels[chosen]).float().mean()
            log.append({"step": step, "loss": float(loss.detach()), "accuracy": float(right)})
            print(f"step {step} loss {log[-1]['loss']:.3f} accuracy {log[-1]['accuracy']:.2f} "
                  f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
    return network.folded(), log


def accuracy(network: ProceduralClassifier, images: Tensor, labels: Tensor) -> float:
    """Return the share of pictures that it names rightly."""
    right = 0
    for at in range(0, len(images), 100):
        logits = network.features(images[at : at + 100], ("logits",))["logits"]
        right += int((logits.argmax(1) == labels[at : at + 100]).sum())
    return right / len(images)


def ship(recipe: Recipe, folder: Path, *, force: bool = False) -> dict[str, Any]:
    """Train, measure and write the whole folder; return what ``classifier.json`` holds.

    Raises:
        TesseraError: files are there already and ``force`` is False.
    """
    from safetensors.torch import save

    for name in (WEIGHTS, FACTS, "README.md"):
        check_free(folder / name, force=force)
    start = time.process_time()
    state, log = train(recipe)
    seconds = time.process_time() - start
    names = ProceduralClasses.class_names
    network = ProceduralClassifier(len(names))
    network.load_state_dict({key: value.float() for key, value in state.items()})
    facts = {
        "name": VERSION, "classes": list(names), "side": SIDE, "resize": RESIZE,
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "accuracy": accuracy(network, *painted(
            recipe.seed + TEST_SEED_OFFSET, recipe.test_pictures)),
        "recipe": asdict(recipe), "cpu_seconds": round(seconds), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "log": log,
    }  # fmt: skip
    write_bytes(folder / WEIGHTS, save(state), force=force)
    write_bytes(folder / FACTS, (json.dumps(facts, indent=1) + "\n").encode(), force=force)
    write_bytes(folder / "README.md", card(facts).encode(), force=force)
    return facts


def card(facts: dict[str, Any]) -> str:
    """Return the model card."""
    recipe = facts["recipe"]
    return f"""# {facts["name"]}

A small classifier of the twelve procedural shapes and textures ({", ".join(facts["classes"])}).
Its features define the distance `frechet/{facts["name"]}`, which is never called FID.

| | |
|---|---|
| input | {facts["side"]} x {facts["side"]}; other sizes: {facts["resize"]} |
| size | {facts["parameters"]:,} parameters, float16 |
| trained on | {recipe["pictures"]} procedural pictures of seed {recipe["seed"]}, flipped, \
colours swapped and inverted |
| steps | {recipe["steps"]} of {recipe["batch"]} pictures, {facts["cpu_seconds"] / 60:.0f} minutes \
of CPU time on {facts["threads"]} thread(s) |
| accuracy | {facts["accuracy"]:.1%} of {recipe["test_pictures"]} pictures of another seed |
| licence | Apache-2.0; no data of others |

Make it again:

    OMP_NUM_THREADS={facts["threads"]} python -m eval.procedural_classifier --out FOLDER

## Limits

It has seen flat shapes and patterns, no photograph. Its distance orders strengths of one
degradation on one set of pictures; it says nothing of how natural a picture looks, it compares
different kinds of degradation badly, it sees {facts["side"]} x {facts["side"]} pixels only, and
its numbers have no relation to FID. See docs/procedural_distance.md for what was measured.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.procedural_classifier")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    defaults = Recipe()
    for name in ("seed", "pictures", "steps", "batch", "test_pictures"):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name)
        )
    given = vars(parser.parse_args(arguments))
    folder, force = given.pop("out"), given.pop("force")
    try:
        facts = ship(Recipe(**given), folder, force=force)
    except TesseraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {facts['accuracy']:.1%} of unseen pictures named rightly")
    return 0
