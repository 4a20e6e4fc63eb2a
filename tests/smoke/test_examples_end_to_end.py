"""The whole chain as the examples run it, small: killed halfway, gone on with, and done again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tok_core.loading import load
from tok_core.token_shards import TokenShards

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).resolve().parents[2]
STEPS = 7
CHAINS = {"pictures": "tokenizer", "speech": "codec"}
MADE = {
    "pictures": ("samples.png", "samples/000000_label0.png", "samples_after.png"),
    "speech": ("samples/000000.wav", "scores_sounds/0_original.wav", "samples_after/000007.wav"),
}


def started(name: str, work: Path) -> subprocess.Popen[str]:
    path = ROOT / "examples" / f"{name}_end_to_end.py"
    return subprocess.Popen(
        [sys.executable, str(path), str(work), "--small"], cwd=work, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def whole(name: str, work: Path) -> str:
    process = started(name, work)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    return printed


def killed_at(name: str, work: Path, words: str) -> None:
    process = started(name, work)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if words in line:
                break
        else:
            pytest.fail(f"'{words}' was never printed")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def scores_of(printed: str) -> list[str]:
    """What step 7 says, but that it judges: scores that are kept are not made again."""
    lines = printed.split("7. The scores again")[1].splitlines()
    return [line for line in lines if not line.startswith("judging ")]


@pytest.mark.parametrize("name", CHAINS)
def test_chain_goes_on_after_a_kill_and_again_after_its_end(name: str, tmp_path: Path) -> None:
    killed_at(name, tmp_path, "4. A generator")
    work = tmp_path / "small"
    stamps = {path: path.stat().st_mtime_ns for path in (work / "tokens").iterdir()}
    table = whole(name, tmp_path)
    assert all(f"\n{number}. " in table for number in range(1, STEPS + 1))
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}, "coded once"
    for file in MADE[name]:
        assert (work / file).stat().st_size > 100, file

    tokenizer, generator, better = (
        load(work / part / "model") for part in (CHAINS[name], "generator", "post_trained")
    )
    generator.check_fits(tokenizer)
    generator.check_fits(better)
    assert tokenizer.weights_hash() != better.weights_hash(), "the decoder has learnt"
    TokenShards(work / "tokens").check_code_hash(better)
    assert TokenShards(work / "pairs").views == ("real", "generated")

    rows = [json.loads((work / f"{file}.json").read_text()) for file in ("scores", "scores_after")]
    assert rows[0] != rows[1] and rows[0].keys() == rows[1].keys()
    for label in ("as trained", "post-trained"):
        [line] = [line for line in table.splitlines() if line.startswith(label)]
        assert len(re.findall(r"\d+\.\d+", line)) >= 2

    hashes = [load(work / part / "model").weights_hash() for part in ("generator", "post_trained")]
    again = whole(name, tmp_path)
    assert scores_of(again) == scores_of(table)
    assert hashes == [
        load(work / part / "model").weights_hash() for part in ("generator", "post_trained")
    ]
