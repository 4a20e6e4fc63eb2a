"""`tessera tokenize`: what goes in, what is skipped, what a kill costs (nothing), who may read."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_audio import save_tiny as save_tiny_codec
from tiny_audio import write_sound

import tessera as roof
from tests.warm_python import WarmProcess
from tok_core.crop_views import crop_views
from tok_core.errors import TokenError
from tok_core.token_file import dumps, loads
from tok_core.token_shards import TokenShards

from .conftest import ROOT, Tessera, environment, make_picture, one_sentence


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes of three pictures, one of them deeper, and two broken files."""
    root = tmp_path / "classes"
    for number in range(6):
        name = ("bee", "ant")[number % 2]
        deeper = "more" if number == 4 else ""
        make_picture(root / name / deeper / f"{number}.png", 40 + 9 * number, 50, seed=number)
    (root / "ant" / "empty.jpg").write_bytes(b"")
    (root / "bee" / "cut.png").write_bytes((root / "bee" / "0.png").read_bytes()[:300])
    (root / "bee" / "notes.txt").write_text("no picture")
    (root / ".hidden").mkdir()
    make_picture(root / ".hidden" / "x.png", 32, 32)
    return root


def many(root: Path, count: int, size: int = 48) -> Path:
    """Return a folder of small pictures of three classes, every eleventh of them broken."""
    for number in range(count):
        path = root / "abc"[number % 3] / f"{number:04d}.png"
        make_picture(path, size, size, seed=number)
        if number % 11 == 5:
            path.write_bytes(path.read_bytes()[:200])
    return root


def names_in(folder: Path) -> list[str]:
    """Return the members of all shards of a folder, in order."""
    names: list[str] = []
    for path in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(path, mode="r:") as tar:
            names += tar.getnames()
    return names


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder of shards."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def codes_alone(model: Path, picture: Path, view: int = 0, recipe: str = "centre") -> torch.Tensor:
    """Return the codes of one view of a picture, coded alone."""
    tokenizer = roof.load(str(model))
    assert tokenizer.spec.image_size is not None
    with Image.open(picture) as image:
        cut = crop_views(image.convert("RGB"), tokenizer.spec.image_size[0], recipe)[view]
    x = torch.from_numpy(np.array(cut)).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    with torch.inference_mode():
        return tokenizer.encode(x).codes[0]


# -- what goes in ------------------------------------------------------------------------------


def test_folders_are_classes_and_broken_files_are_skipped(
    tessera: Tessera, tiny: Path, classes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = tessera("tokenize", classes, out, "-m", tiny, "--per-shard", 5, "--batch-size", 2)
    assert done.returncode == 1, "two files are broken"
    assert "empty.jpg" in done.stderr and "cut.png" in done.stderr
    assert "skipped 2 broken files" in done.stderr
    assert "went through 8 of 8 files" in done.stderr and "the model alone makes" in done.stderr
    assert "% of it" in done.stderr
    assert names_in(out) == [
        f"{key}.{kind}"
        for key in ("ant/1", "ant/3", "ant/5", "bee/0", "bee/2", "bee/more/4")
        for kind in ("tok", "cls")
    ]
    shards = TokenShards(out)
    assert shards.class_names == ("ant", "bee") and shards.length == 6
    assert [shards.label(i) for i in range(6)] == [0, 0, 0, 1, 1, 1]
    assert [Path(s["source"]).name for s in shards.index.skipped] == ["empty.jpg", "cut.png"]
    assert sorted(p.name for p in out.iterdir()) == [
        "index.json", "shard-000000.tar", "shard-000001.tar",
    ]  # fmt: skip
    for i, name in enumerate(("ant/1", "ant/3", "ant/5", "bee/0", "bee/2", "bee/more/4")):
        codes, label = shards.item(i)
        assert torch.equal(codes, codes_alone(tiny, classes / f"{name}.png"))
        assert label == i // 3
    shards.check_code_hash(roof.load(str(tiny)))


def test_a_glob_and_a_single_file(
    tessera: Tessera, tiny: Path, classes: Path, tmp_path: Path
) -> None:
    done = tessera("tokenize", f"{classes}/*/[0-3].png", tmp_path / "glob", "-m", tiny)
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path / "glob")[::2] == ["ant/1.tok", "ant/3.tok", "bee/0.tok", "bee/2.tok"]
    assert TokenShards(tmp_path / "glob").class_names == ("ant", "bee")
    done = tessera("tokenize", classes / "ant", tmp_path / "flat", "-m", tiny)
    assert names_in(tmp_path / "flat") == ["1.tok", "3.tok", "5.tok"]
    assert TokenShards(tmp_path / "flat").class_names is None
    done = tessera("tokenize", classes / "ant" / "1.png", tmp_path / "one", "-m", tiny)
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path / "one") == ["1.tok"]


def put(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def image_shard(path: Path, pictures: Sequence[Path], first: int = 0) -> Path:
    """Write a webdataset shard of pictures with labels before and behind them."""
    with tarfile.open(path, "w") as tar:
        for number, picture in enumerate(pictures, first):
            put(tar, f"{number:04d}.cls", str(10 + number).encode())
            put(tar, f"{number:04d}.png", picture.read_bytes())
            put(tar, f"{number:04d}.json", b"{}")
    return path


def test_image_shards_with_their_labels(
    tessera: Tessera, tiny: Path, classes: Path, tmp_path: Path
) -> None:
    pictures = [classes / "ant" / f"{n}.png" for n in (1, 3, 5)]
    data = tmp_path / "data"
    data.mkdir()
    image_shard(data / "train-0.tar", pictures[:2])
    image_shard(data / "train-1.tar", pictures[2:])
    whole = (data / "train-1.tar").read_bytes()
    (data / "train-2.tar").write_bytes(whole[:1800])  # ends within its first picture
    (data / "train-3.tar.gz").write_bytes(b"no shard")
    (data / "train-4.tar").write_bytes(b"nonsense" * 100)
    expected = ["train-0/0000", "train-0/0001", "train-1/0000"]
    for out, text in (("folder", data), ("glob", f"{data}/train-[0-4].tar")):
        done = tessera("tokenize", text, tmp_path / out, "-m", tiny)
        assert done.returncode == 1
        assert "train-2.tar" in done.stderr and "train-4.tar" in done.stderr
        assert names_in(tmp_path / out)[::2] == [f"{key}.tok" for key in expected]
        shards = TokenShards(tmp_path / out)
        assert [shards.label(i) for i in range(3)] == [10, 11, 10]
        for i, picture in enumerate(pictures):
            assert torch.equal(shards.item(i)[0], codes_alone(tiny, picture))
    done = tessera("tokenize", data / "train-0.tar", tmp_path / "single", "-m", tiny)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind, size, said", [
    (b"", None, "empty"), (b"text, no picture", None, "no picture"), (None, (3000, 4), "3000 x 4"),
])  # fmt: skip
def test_hostile_pictures_are_named(
    tessera: Tessera, tiny: Path, tmp_path: Path, kind: bytes | None,
    size: tuple[int, int] | None, said: str,
) -> None:  # fmt: skip
    good = make_picture(tmp_path / "in" / "good.png", 32, 32)
    bad = tmp_path / "in" / "bad.png"
    bad.write_bytes(kind) if kind is not None else make_picture(bad, *size)  # type: ignore[misc]
    done = tessera("tokenize", tmp_path / "in", tmp_path / "out", "-m", tiny)
    assert done.returncode == 1
    assert str(bad) in done.stderr and said in done.stderr
    assert torch.equal(TokenShards(tmp_path / "out").item(0)[0], codes_alone(tiny, good))


def test_no_good_file_at_all(tessera: Tessera, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    done = tessera("tokenize", tmp_path / "in", tmp_path / "out", "-m", tiny)
    assert done.returncode == 1 and "skipped 1 broken" in done.stderr
    assert TokenShards(tmp_path / "out").length == 0


# -- views -------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe, options", [
    ("ten-crop", ["--ten-crop"]), ("flips", ["--flips"]), ("ten-crop", ["--ten-crop", "--flips"]),
    ("twenty-crop", ["--twenty-crop"]),
])  # fmt: skip
def test_views_are_stored_with_their_sample(
    tessera: Tessera, tiny: Path, classes: Path, tmp_path: Path, recipe: str, options: list[str]
) -> None:
    out = tmp_path / "out"
    done = tessera("tokenize", classes / "ant", out, "-m", tiny, "--batch-size", 24, *options)
    assert "went through 4 of 4" in done.stderr
    shards = TokenShards(out)
    count = {"twenty-crop": 20, "ten-crop": 10, "flips": 2}[recipe]
    assert len(shards.views) == count and shards.length == 3
    for i, name in enumerate(("1", "3", "5")):
        for view in range(len(shards.views)):
            codes, _ = shards.item(i, view=view)
            alone = codes_alone(tiny, classes / "ant" / f"{name}.png", view, recipe)
            assert torch.equal(codes, alone)
        assert shards.token_file(i).codes.shape == (len(shards.views), 16)


def test_a_member_is_a_token_file_that_decodes(
    tessera: Tessera, tiny: Path, classes: Path, tmp_path: Path
) -> None:
    assert tessera("tokenize", classes / "ant", tmp_path / "out", "-m", tiny).returncode == 1
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        tar.extractall(tmp_path / "members", filter="data")
    done = tessera("decode", tmp_path / "members", "-o", tmp_path / "back", "-m", tiny)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "back" / "1.png") as picture:
        assert picture.size == (49, 49), "the central square of 49 x 50 pixels"


# -- sound -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_codec(tmp_path_factory.mktemp("codec") / "tiny")


def test_sound_is_what_encode_makes_of_it(tessera: Tessera, codec: Path, tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    for number, seconds in enumerate((0.5, 1.0, 0.5, 2.3)):
        folder = root / ("low", "high")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_sound(folder / f"{number}.wav", seconds, channels=1 + number % 2, seed=number)
    (root / "low" / "bad.flac").write_bytes(b"nonsense")
    out = tmp_path / "out"
    done = tessera("tokenize", root, out, "-m", codec, "--batch-size", 3)
    assert done.returncode == 1 and "bad.flac" in done.stderr
    assert tessera("encode", root, "-o", tmp_path / "tok", "-m", codec).returncode == 1
    shards = TokenShards(out)
    assert shards.class_names == ("high", "low") and shards.length == 4
    for i, name in enumerate(("high/1", "high/3", "low/0", "low/2")):
        assert dumps(shards.token_file(i)) == (tmp_path / "tok" / f"{name}.tok").read_bytes()
        codes, label = shards.item(i)
        shards.spec.check(codes[None])
        assert label == i // 2 and codes.shape[0] == 2

    with tarfile.open(tmp_path / "sounds.tar", "w") as tar:
        for path in sorted(root.rglob("*.*")):
            put(tar, path.name, path.read_bytes())
    done = tessera("tokenize", tmp_path / "sounds.tar", tmp_path / "tarred", "-m", codec)
    assert done.returncode == 1 and f"{tmp_path}/sounds.tar/bad.flac" in done.stderr
    assert torch.equal(TokenShards(tmp_path / "tarred").item(0)[0], shards.item(0)[0])


def test_views_of_sound_are_refused(tessera: Tessera, codec: Path, tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav")
    done = tessera("tokenize", tmp_path / "a.wav", tmp_path / "out", "-m", codec, "--ten-crop")
    assert done.returncode == 1 and "--ten-crop" in one_sentence(done)
    assert not (tmp_path / "out" / "unfinished").exists()


def test_the_shipped_model_of_the_files_is_the_default(tessera: Tessera, tmp_path: Path) -> None:
    root = tmp_path / "in"
    make_picture(root / "a.png", 70, 70)
    write_sound(root / "b.wav", rate=24000)
    write_sound(tmp_path / "only" / "b.wav", rate=24000)
    done = tessera("tokenize", root, tmp_path / "one", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == "one-d-piece-tiny" and report["samples"] == 1
    assert "1 audio files" in done.stderr
    assert report["files_per_second"] > 0 and report["model_only_files_per_second"] > 0
    assert report["ratio"] == pytest.approx(
        report["files_per_second"] / report["model_only_files_per_second"], rel=0.01
    )
    done = tessera("tokenize", tmp_path / "only", tmp_path / "two", "--json")
    assert json.loads(done.stdout)["model"] == "wavtokenizer-tiny"


# -- processes, kills --------------------------------------------------------------------------


def start(*arguments: object) -> WarmProcess:
    """Begin ``tessera tokenize ARGUMENTS`` in a process that can be killed."""
    return WarmProcess(
        "-m", "tessera", "tokenize", *map(str, arguments), cwd=ROOT, env=environment()
    )


def test_two_processes_give_the_bytes_of_one(tessera: Tessera, tiny: Path, tmp_path: Path) -> None:
    root = many(tmp_path / "in", 150)
    options = ("-m", tiny, "--per-shard", 60, "--batch-size", 2, "--json")
    one = tessera("tokenize", root, tmp_path / "one", "--processes", 1, *options)
    two = tessera("tokenize", root, tmp_path / "two", "--processes", 2, *options)
    assert one.returncode == two.returncode == 1, two.stderr
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    first, second = json.loads(one.stdout), json.loads(two.stdout)
    assert first["shards"] == second["shards"] and len(first["shards"]) == 3
    assert first["files"] == second["files"] == 150
    assert second["model_only_files_per_second"] > 0
    shards = TokenShards(tmp_path / "two")
    assert shards.length == 150 - len(range(5, 150, 11)) == 150 - len(second["failures"])


def parts_there(out: Path) -> int:
    return len(list(out.glob("unfinished/part-*.json"))) + len(list(out.glob("shard-*.tar")))


def test_sigkill_at_any_moment_loses_and_doubles_nothing(
    tessera: Tessera, tiny: Path, tmp_path: Path
) -> None:
    root = many(tmp_path / "in", 360)
    options = ("-m", tiny, "--per-shard", 100, "--batch-size", 2)
    done = tessera("tokenize", root, tmp_path / "whole", *options, "--processes", 1)
    assert done.returncode == 1
    out = tmp_path / "killed"
    rng = random.Random()  # noqa: S311 - another moment in every run is the point
    killed, orphans = 0, []
    for processes in (1, 2):
        have = parts_there(out)
        process = start(root, out, *options, "--processes", processes, "--resume")
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if parts_there(out) > have:
                break
            time.sleep(0.0005)
        time.sleep(0.1 * rng.random())
        orphans += children(process.pid)
        process.kill()
        process.communicate(timeout=60)
        killed += process.returncode == -signal.SIGKILL
    assert killed, "no run was killed before its end"
    assert orphans
    while any(map(alive, orphans)):
        assert time.monotonic() < deadline, "a worker outlived the command"
        time.sleep(0.01)
    done = tessera("tokenize", root, out, *options, "--processes", 1, "--resume")
    assert done.returncode == 1, done.stderr
    assert bytes_of(out) == bytes_of(tmp_path / "whole")
    keys = [name for name in names_in(out) if name.endswith(".tok")]
    good = [n for n in range(360) if n % 11 != 5]
    assert sorted(keys) == sorted(f"{'abc'[n % 3]}/{n:04d}.tok" for n in good)


def test_a_killed_worker_is_a_sentence_and_the_rest_goes_on_with_resume(
    tiny: Path, tessera: Tessera, tmp_path: Path
) -> None:
    root = many(tmp_path / "in", 360)
    options = ("-m", tiny, "--batch-size", 2, "--processes", 2)
    out = tmp_path / "out"
    process = start(root, out, *options)
    workers: list[int] = []
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not parts_there(out):
        workers = children(process.pid) or workers
        time.sleep(0.0005)
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in errors
    assert "was ended by signal 9" in errors and "--resume" in errors
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    done = tessera("tokenize", root, out, *options[:-1], 1, "--resume")
    assert "went through" in done.stderr and TokenShards(out).length == 360 - len(range(5, 360, 11))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def test_ctrl_c_keeps_what_is_finished(tiny: Path, tessera: Tessera, tmp_path: Path) -> None:
    root = many(tmp_path / "in", 360)
    out = tmp_path / "out"
    options = ("-m", tiny, "--batch-size", 2)
    process = start(root, out, *options, "--processes", 2)
    while process.poll() is None and not parts_there(out):
        time.sleep(0.0005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume goes on" in errors and "Traceback" not in errors
    assert parts_there(out)
    with pytest.raises(TokenError, match="--resume"):
        TokenShards(out)
    done = tessera("tokenize", root, out, *options, "--resume", "--processes", 1)
    assert done.returncode == 1 and TokenShards(out).length == 360 - len(range(5, 360, 11))


# -- resume, force -----------------------------------------------------------------------------


def test_what_is_there_is_replaced_only_with_force(
    tessera: Tessera, tiny: Path, stranger: Path, classes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("tokenize", classes / "ant", out)
    assert tessera(*arguments, "-m", tiny).returncode == 1
    before = bytes_of(out)
    assert "--force" in one_sentence(tessera(*arguments, "-m", tiny))
    done = tessera(*arguments, "-m", tiny, "--resume")
    assert done.returncode == 1 and "is finished: 3 samples" in done.stderr
    assert "another model" in one_sentence(tessera(*arguments, "-m", stranger, "--resume"))
    assert bytes_of(out) == before
    assert "went through 4 of 4" in tessera(*arguments, "-m", stranger, "--force").stderr
    assert TokenShards(out).code_hash == roof.load(str(stranger)).code_hash()


def test_info_tells_what_shards_hold(
    tessera: Tessera, tiny: Path, classes: Path, tmp_path: Path
) -> None:
    tessera("tokenize", classes, tmp_path / "out", "-m", tiny, "--flips")
    done = tessera("info", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    [facts] = json.loads(done.stdout)
    assert (facts["samples"], facts["skipped"], facts["classes"]) == (6, 2, 2)
    assert facts["views"] == ["centre", "mirrored centre"]


def test_force_with_a_bad_input_keeps_the_old_shards(
    tessera: Tessera, tiny: Path, classes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert tessera("tokenize", classes / "ant", out, "-m", tiny).returncode == 1
    before = bytes_of(out)
    (tmp_path / "none").mkdir()
    for text in (tmp_path / "none", tmp_path / "nowhere"):
        done = tessera("tokenize", text, out, "-m", tiny, "--force")
        assert done.returncode == 1 and str(text) in one_sentence(done)
    assert bytes_of(out) == before


def test_a_resumed_run_repeats_the_first_command(
    tessera: Tessera, tiny: Path, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tok_core.shard_run import ShardRun

    out = tmp_path / "out"
    arguments = ("tokenize", classes / "ant", out, "-m", tiny)
    with monkeypatch.context() as patch:
        patch.setattr(ShardRun, "finish", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        assert tessera(*arguments).returncode == 130
    assert "--resume" in one_sentence(tessera(*arguments))
    done = tessera(*arguments, "--resume", "--per-shard", 7)
    assert "--per-shard 10000 but now it is 7" in one_sentence(done)
    assert "views" in one_sentence(tessera(*arguments, "--resume", "--flips"))
    # What came since the run began is not part of it, and what is gone is named.
    make_picture(classes / "ant" / "2.png", 32, 32)
    assert tessera(*arguments, "--resume").returncode == 1
    assert TokenShards(out).length == 3


def test_output_inside_the_input_is_no_input(
    tessera: Tessera, tiny: Path, classes: Path, tmp_path: Path
) -> None:
    out = classes / "ant" / "shards"
    make_picture(out / "old.png", 32, 32)
    assert "went through 8 of 8" in tessera("tokenize", classes, out, "-m", tiny).stderr
    data = tmp_path / "data"
    data.mkdir()
    image_shard(data / "a.tar", [classes / "ant" / "1.png"])
    for _ in range(2):
        done = tessera("tokenize", data, data / "out", "-m", tiny, "--force")
        assert "tokenized 1 of 1" in done.stderr


# -- who may read ------------------------------------------------------------------------------


def test_a_fine_tuned_decoder_may_read_and_another_tokenizer_may_not(
    tessera: Tessera, tiny: Path, stranger: Path, classes: Path, tmp_path: Path
) -> None:
    assert tessera("tokenize", classes / "ant", tmp_path / "out", "-m", tiny).returncode == 1
    shards = TokenShards(tmp_path / "out")
    tuned = roof.load(str(tiny))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if not name.startswith(tuned.code_prefixes):
                parameter.add_(0.01)
    tuned.save_pretrained(tmp_path / "tuned")
    again = roof.load(str(tmp_path / "tuned"))
    assert again.weights_hash() != shards.index.head.weights_hash
    shards.check_code_hash(again)
    with pytest.raises(TokenError, match="code hash") as caught:
        shards.check_code_hash(roof.load(str(stranger)))
    assert "\n" not in str(caught.value)


def test_the_webdataset_package_reads_the_shards(
    tessera: Tessera, tiny: Path, classes: Path, tmp_path: Path
) -> None:
    webdataset = pytest.importorskip("webdataset")
    tessera("tokenize", classes, tmp_path / "out", "-m", tiny, "--per-shard", 3)
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    shards = TokenShards(tmp_path / "out")
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(found) == shards.length
    for i, item in enumerate(found):
        assert torch.equal(torch.from_numpy(loads(item["tok"]).codes), shards.item(i)[0])
        assert int(item["cls"]) == shards.label(i)
