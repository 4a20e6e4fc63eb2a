"""Token shards: what is written comes back by number, and what is damaged says so."""

from __future__ import annotations

import copy
import io
import json
import os
import tarfile
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_shards import (
    HASH,
    LINE,
    OTHER,
    SPECS,
    bytes_of,
    codes_of,
    damage,
    make,
    plan_of,
    sample,
    write,
)
from tok_core.errors import MediaError, TesseraError, TokenError
from tok_core.shard_index import (
    ShardHead,
    ShardIndex,
    ShardRecord,
    pack_column,
    read_index,
    unpack_column,
)
from tok_core.shard_members import Keys, end_mark
from tok_core.shard_plan import ShardPlan
from tok_core.shard_run import ShardRun
from tok_core.token_file import loads
from tok_core.token_shards import TokenShards

# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("views", [("whole",), ("one", "two", "three")])
def test_every_layout_comes_back(tmp_path: Path, name: str, views: tuple[str, ...]) -> None:
    spec = SPECS[name]
    write(tmp_path, spec=spec, views=views)
    shards = TokenShards(tmp_path)
    assert (shards.length, len(shards), shards.spec, shards.code_hash) == (9, 9, spec, HASH)
    numbers = [n for n in range(10) if n != 6]
    for i, number in enumerate(numbers):
        for view in range(len(views)):
            codes, label = shards.item(i, view=view)
            assert codes.dtype == torch.int64
            assert torch.equal(codes, codes_of(spec, number, len(views))[view])
            spec.check(codes[None])
            assert label == shards.label(i) == number % 3
    with pytest.raises(IndexError):
        shards.item(9)
    with pytest.raises(IndexError):
        shards.item(0, view=len(views))


def test_plain_tar_files_that_tarfile_reads(tmp_path: Path) -> None:
    index = write(tmp_path)
    names = []
    for record in index.shards:
        with tarfile.open(tmp_path / record.file, mode="r:") as tar:
            places = {m.name: (m.offset_data, m.size) for m in tar.getmembers()}
            for name in places:
                data = tar.extractfile(name).read()  # type: ignore[union-attr]
                number = int(Path(name).stem)
                if name.endswith(".tok"):
                    names.append(name)
                    assert np.array_equal(loads(data).codes, codes_of(LINE, number)[0].numpy())
                else:
                    assert data == str(number % 3).encode()
            told = zip(record.offsets.tolist(), record.sizes.tolist(), strict=True)
            assert list(told) == [p for name, p in places.items() if name.endswith(".tok")]
    assert names == [f"part/{n:04d}.tok" for n in range(10) if n != 6]


def test_the_webdataset_package_reads_them(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write(tmp_path)
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [s["__key__"] for s in found] == [f"part/{n:04d}" for n in range(10) if n != 6]
    for item in found:
        number = int(item["__key__"][-4:])
        assert int(item["cls"]) == number % 3
        assert np.array_equal(loads(item["tok"]).codes, codes_of(LINE, number)[0].numpy())


def test_samples_without_labels(tmp_path: Path) -> None:
    write(tmp_path, labels=False)
    shards = TokenShards(tmp_path)
    assert shards.label(3) is None and shards.item(3)[1] is None
    assert shards.num_classes == 0 and shards.class_names is None


def test_class_names_and_facts_are_kept(tmp_path: Path) -> None:
    write(tmp_path, class_names=("ant", "bee", "cat", "dog"), weights_hash=OTHER,
          facts={"model": "mine"})  # fmt: skip
    shards = TokenShards(tmp_path)
    assert shards.class_names == ("ant", "bee", "cat", "dog") and shards.num_classes == 4
    assert shards.index.head.weights_hash == OTHER
    assert [dict(s) for s in shards.index.skipped] == [{"source": "6.png", "error": "6 is broken"}]
    plain = json.loads((tmp_path / "index.json").read_bytes())
    assert plain["samples"] == 9 and plain["spec"]["vocabulary"] == [100]
    assert [(s["file"], s["samples"]) for s in plain["shards"]] == [
        ("shard-000000.tar", 4), ("shard-000001.tar", 3), ("shard-000002.tar", 2),
    ]  # fmt: skip


def test_without_names_the_labels_tell_the_number_of_classes(tmp_path: Path) -> None:
    write(tmp_path)
    assert TokenShards(tmp_path).num_classes == 3


def test_views_are_drawn_evenly_and_always_alike(tmp_path: Path) -> None:
    write(tmp_path, views=tuple("abcde"))
    shards = TokenShards(tmp_path)
    drawn = [shards.draw_view(3, position) for position in range(2000)]
    assert drawn == [TokenShards(tmp_path).draw_view(3, position) for position in range(2000)]
    assert all(abs(n - 400) < 100 for n in Counter(drawn).values()) and len(set(drawn)) == 5
    assert drawn != [shards.draw_view(4, position) for position in range(2000)]


def test_more_shards_than_open_files_and_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tok_core.token_shards._OPEN_FILES", 3)
    write(tmp_path, 40, per_shard=2)
    shards = TokenShards(tmp_path)
    numbers = [n for n in range(40) if n % 7 != 6]
    wrong = []

    def read(seed: int) -> None:
        for i in np.random.default_rng(seed).permutation(len(numbers)).tolist():
            if not torch.equal(shards.item(i)[0], codes_of(LINE, numbers[i])[0]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(shards._open) <= 3


def test_a_copy_opens_the_folder_anew(tmp_path: Path) -> None:
    write(tmp_path)
    shards = TokenShards(tmp_path)
    shards.item(0)
    again = copy.copy(shards)
    assert not again._open and torch.equal(again.item(5)[0], shards.item(5)[0])


def test_the_index_takes_few_bytes_of_memory(tmp_path: Path) -> None:
    n = 200_000
    record = ShardRecord(
        file="a.tar", bytes=n * 2048, sha256="0" * 64, offsets=np.arange(n) * 2048 + 512,
        sizes=np.full(n, 407), labels=np.arange(n) % 1000,
    )  # fmt: skip
    index = ShardIndex(head=ShardHead(spec=LINE, code_hash=HASH), shards=(record,))
    (tmp_path / "index.json").write_bytes(index.dumps())
    assert (tmp_path / "index.json").stat().st_size < 8 * n
    tracemalloc.start()
    shards = TokenShards(tmp_path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shards.length == n and shards.label(n - 1) == 999
    assert held < 26 * n and peak < 50 * n


# -- damage ------------------------------------------------------------------------------------


def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    index = write(tmp_path)
    record = index.shards[0]
    damage(tmp_path / record.file, int(record.offsets[1]) + int(record.sizes[1]) - 3)
    shards = TokenShards(tmp_path)
    with pytest.raises(MediaError, match=r"shard-000000\.tar/part/0001\.tok.*damaged"):
        shards.item(1)
    assert torch.equal(shards.item(2)[0], codes_of(LINE, 2)[0])
    assert shards.label(1) == 1
    assert [text.split(" is damaged")[0] for text in shards.verify()] == [
        str(tmp_path / "shard-000000.tar")
    ]


def test_a_damaged_header_leaves_a_number(tmp_path: Path) -> None:
    index = write(tmp_path)
    record = index.shards[0]
    damage(tmp_path / record.file, int(record.offsets[1]) - 512)
    damage(tmp_path / record.file, int(record.offsets[1]) + 12)
    with pytest.raises(MediaError, match=r"shard-000000\.tar, sample 1: "):
        TokenShards(tmp_path).item(1)


def test_a_cut_or_missing_shard_is_an_error_of_its_samples_alone(tmp_path: Path) -> None:
    index = write(tmp_path)
    first, second = (tmp_path / record.file for record in index.shards[:2])
    with open(first, "r+b") as file:
        file.truncate(int(index.shards[0].offsets[2]) + 5)
    second.unlink()
    shards = TokenShards(tmp_path)
    readable = []
    for i in range(shards.length):
        try:
            shards.item(i)
            readable.append(i)
        except MediaError as error:
            assert f"shard-00000{0 if i < 4 else 1}.tar" in str(error)
    assert readable == [0, 1, 7, 8]
    assert len(list(shards.verify())) == 2


def test_a_member_of_another_tokenizer_or_shape_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "index.json"
    text = path.read_text()
    path.write_text(text.replace(HASH, OTHER))
    with pytest.raises(MediaError, match=r"0000\.tok.*code hash"):
        TokenShards(tmp_path).item(0)
    path.write_text(text.replace('"size": 12', '"size": 11'))
    with pytest.raises(MediaError, match=r"0000\.tok.*do not fit"):
        TokenShards(tmp_path).item(0)
    path.write_text(text.replace(" 100\n", " 2\n"))
    with pytest.raises(MediaError, match=r"0000\.tok.*vocabulary"):
        TokenShards(tmp_path).item(0)


def test_another_tokenizer_is_refused_in_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, facts={"model": "mine"})
    shards = TokenShards(tmp_path)
    shards.check_code_hash(HASH)
    with pytest.raises(TokenError) as caught:
        shards.check_code_hash(HASH[:-1] + "0")
    text = str(caught.value)
    assert str(tmp_path) in text and "'mine'" in text and "\n" not in text and HASH[:12] in text


@pytest.mark.parametrize("text, said", [
    ("", "JSON"), ("[]", "no index"), ("{}", "no index"), ("nonsense", "JSON"),
    ('{"format": "tessera token shards", "version": 99}', "version 99"),
    ('{"format": "tessera token shards", "version": 1}', "damaged"),
])  # fmt: skip
def test_an_index_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(TokenError, match=said):
        TokenShards(tmp_path)


@pytest.mark.parametrize("change", [
    {"file": "../shard.tar"}, {"file": "/etc/passwd"}, {"file": ".hidden"}, {"file": 3},
    {"samples": 3}, {"samples": -1}, {"samples": 1 << 40}, {"samples": "4"}, {"bytes": 100},
    {"bytes": None}, {"offsets": "!"}, {"offsets": pack_column([1])}, {"sizes": 7},
    {"offsets": pack_column([-1, 0, 0, 0])}, {"sizes": pack_column([0, 0, 0, 1 << 62])},
    {"offsets": pack_column([(1 << 63) - 1] * 4)}, {"labels": "AAAA"},
    *({f"{kind}_offsets": pack_column(starts), f"{kind}_sizes": pack_column(lengths)}
      for kind in ("caption", "short_caption")
      for starts, lengths in (([512] * 4, [1 << 62] * 4), ([-1] * 4, [8] * 4), ([-2] * 4, [-2] * 4),
                              ([512] * 3, [8] * 3))),
    {"short_caption_offsets": pack_column([-1] * 4)},
])  # fmt: skip
def test_a_hostile_index_is_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path)
    path = tmp_path / "index.json"
    plain = json.loads(path.read_bytes())
    plain["shards"][0] |= change
    path.write_text(json.dumps(plain))
    with pytest.raises(TokenError, match="damaged") as caught:
        TokenShards(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_folder_no_index_and_an_unfinished_run_differ(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="no folder"):
        TokenShards(tmp_path / "nowhere")
    with pytest.raises(TokenError, match="holds no index"):
        TokenShards(tmp_path)
    with ShardRun(tmp_path) as run:
        run.begin(plan_of(10))
    with pytest.raises(TokenError, match="--resume"):
        TokenShards(tmp_path)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_columns_round_trip(numbers: list[int]) -> None:
    assert unpack_column(pack_column(numbers), len(numbers)).tolist() == numbers
    with pytest.raises(ValueError):
        unpack_column(pack_column(numbers), len(numbers) + 1)
    if numbers:
        with pytest.raises(ValueError):
            unpack_column(pack_column(numbers), len(numbers) - 1)


# -- writing -----------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20))
def test_parts_hold_every_source_once(sources: int, per_shard: int, per_part: int) -> None:
    plan = ShardPlan(sources=sources, per_shard=per_shard, per_part=per_part, head={}, facts={})
    seen = []
    for shard in range(plan.shards):
        for part in plan.parts_of(shard):
            assert plan.shard_of(part) == shard
            numbers = plan.sources_of(part)
            assert 1 <= len(numbers) <= per_part
            assert {n // per_shard for n in numbers} == {shard}
            seen += numbers
    assert seen == list(range(sources))


def test_the_order_of_parts_and_doing_one_twice_change_nothing(tmp_path: Path) -> None:
    write(tmp_path / "plain", 30)
    with ShardRun(tmp_path / "mixed") as run:
        run.begin(plan_of(30))
        helper = ShardRun.helper(tmp_path / "mixed")
        for part in reversed(run.missing()):
            make(helper, part)
            make(run, part)
            run.assemble(part)
        run.finish()
    assert bytes_of(tmp_path / "plain") == bytes_of(tmp_path / "mixed")


class Died(BaseException):
    """Stands for a kill: nothing of the code below may answer it."""


@pytest.mark.parametrize("after", [False, True])
def test_death_around_every_rename_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    write(tmp_path / "whole", 11)
    expected = bytes_of(tmp_path / "whole")
    replace, renames, deadly = os.replace, 0, 0

    def dying(source: Any, target: Any) -> None:
        nonlocal renames
        renames += 1
        if renames == deadly and not after:
            raise Died
        replace(source, target)
        if renames == deadly:
            raise Died

    monkeypatch.setattr(os, "replace", dying)
    died = True
    while died:
        renames, deadly, died = 0, deadly + 1, False
        folder = tmp_path / f"killed {deadly}"
        try:
            _go_on(folder)
        except Died:
            died = True
            _go_on(folder)
        _go_on(folder)  # of a finished run nothing is left to do
        assert bytes_of(folder) == expected, f"killed at rename {deadly}"
    assert deadly > 20


def _go_on(folder: Path) -> None:
    with ShardRun(folder, resume=True) as run:
        if run.finished:
            return
        if run.plan is None:
            run.begin(plan_of(11))
        run.check_facts({"input": "here"})
        run.assemble_all()
        for part in run.missing():
            make(run, part)
            run.assemble(part)
        run.finish()


def test_a_taken_folder_is_refused_without_a_word_of_consent(tmp_path: Path) -> None:
    write(tmp_path)
    before = bytes_of(tmp_path)
    with pytest.raises(TesseraError, match="--force"), ShardRun(tmp_path):
        pass
    with ShardRun(tmp_path, resume=True) as run:
        assert run.finished
    assert bytes_of(tmp_path) == before
    with ShardRun(tmp_path, force=True) as run:
        run.begin(plan_of(3))
        assert not list(tmp_path.glob("*.tar")) and not (tmp_path / "index.json").exists()
    with pytest.raises(TesseraError, match="--resume"), ShardRun(tmp_path):
        pass


def test_force_that_never_begins_leaves_the_old_shards(tmp_path: Path) -> None:
    write(tmp_path)
    before = bytes_of(tmp_path)
    with pytest.raises(TesseraError, match="nothing"), ShardRun(tmp_path, force=True):
        raise TesseraError("there is nothing to tokenize")
    assert bytes_of(tmp_path) == before


def test_shards_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shard-000000.tar").write_bytes(b"precious")
    for options in ({}, {"resume": True}):
        with pytest.raises(TesseraError, match="--force"), ShardRun(tmp_path, **options):
            pass
    assert bytes_of(tmp_path) == {"shard-000000.tar": b"precious"}


def test_a_run_that_never_began_leaves_no_trace(tmp_path: Path) -> None:
    with ShardRun(tmp_path / "out"):
        pass
    assert not list((tmp_path / "out").iterdir())


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with ShardRun(tmp_path) as run:
        run.begin(plan_of(10))
        with pytest.raises(TesseraError, match="another run"), ShardRun(tmp_path, resume=True):
            pass
    with ShardRun(tmp_path, resume=True) as run:
        assert run.plan is not None
        assert json.dumps(run.plan.to_json()) == json.dumps(plan_of(10).to_json())


def test_a_resumed_run_must_do_the_same(tmp_path: Path) -> None:
    with ShardRun(tmp_path) as run:
        run.begin(plan_of(10))
    with ShardRun(tmp_path, resume=True) as run:
        run.check_facts({"input": "here"})
        with pytest.raises(TesseraError, match='input "here" but now it is "there"'):
            run.check_facts({"input": "there"})


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardRun(tmp_path) as run:
        run.begin(plan_of(10))
        monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(TesseraError, match="disk is full"):
            make(run, 0)
        monkeypatch.undo()
        assert run.missing()[0] == 0


def test_keys_are_unique_and_have_no_dot() -> None:
    keys = Keys()
    names = ["a.jpg", "a.png", "a.b.jpg", "a_b.jpg", "a_png.gif", "a.png.png", "a.jpg"]
    found = [keys.of(name) for name in names]
    assert len(set(found)) == len(names) and not any("." in key for key in found)


def test_long_and_odd_names_survive(tmp_path: Path) -> None:
    names = ["x" * 300, "ä/ü ö", "a\udcff"]
    with ShardRun(tmp_path) as run:
        run.begin(plan_of(3))
        for part in run.missing():
            numbers = run.plan.sources_of(part)  # type: ignore[union-attr]
            run.write_part(part, [sample(LINE, n)._replace(key=names[n]) for n in numbers], [])
            run.assemble(part)
        run.finish()
    shards = TokenShards(tmp_path)
    for i in range(3):
        assert torch.equal(shards.item(i)[0], codes_of(LINE, i)[0])
    data = (tmp_path / "shard-000000.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == [f"{name}.tok" for name in names]
    assert len(data) % 10240 == 0


@pytest.mark.parametrize("size", [0, 512, 9216, 9728, 10240])
def test_the_end_mark_fills_a_record(size: int) -> None:
    assert len(end_mark(size)) >= 1024 and (size + len(end_mark(size))) % 10240 == 0


def test_the_index_reads_back_what_it_says(tmp_path: Path) -> None:
    index = write(tmp_path, spec=SPECS["branches"], class_names=("a", "b", "c"))
    assert read_index(tmp_path).dumps() == index.dumps() == (tmp_path / "index.json").read_bytes()
