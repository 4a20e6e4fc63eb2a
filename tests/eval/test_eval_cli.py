"""The verbs, end to end on small files: tables, files, options, the way through ``tessera``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval.options import spread_words
from tests.eval.judged_files import Files, Judge, scores

ROOT = Path(__file__).resolve().parents[2]


def test_several_words_commas_and_repeats_are_one() -> None:
    assert spread_words(["recon", "-t", "A", "B", "--out", "x.json", "--data", "d"]) == [
        "recon", "-t", "A", "-t", "B", "--out", "x.json", "--data", "d",
    ]  # fmt: skip
    assert spread_words(["compare", "a.json", "b.json", "--columns", "x", "y"]) == [
        "compare", "a.json", "b.json", "--columns", "x", "--columns", "y",
    ]  # fmt: skip


def test_recon(files: Files, judge: Judge, tmp_path: Path) -> None:
    done = judge(
        "recon", "--tokenizer", f"ours={files.titok}", "jpeg,webp", "--data", files.pictures,
        "--size", 16, "--budgets", "2,8", "--qualities", 50, "--metrics", "psnr", "ssim",
        "--out", "results/recon.json", "--speed", "--samples", 2,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "ground truth" in done.out and "PSNR (dB) ↑" in done.out
    found = scores(tmp_path / "results" / "recon.json")
    truth = found["ground truth", None, "ssim"]
    assert truth["value"] == pytest.approx(1.0) and truth["n"] == 9
    assert found["ours", 2.0, "bpp"]["value"] < found["ours", 8.0, "bpp"]["value"]
    assert found["jpeg", 50.0, "bytes"]["kind"] == "rate"
    assert found["ours", 8.0, "speed/parameters"]["value"] > 0
    assert found["ours", 8.0, "speed/encode"]["value"] > 0
    psnr = found["ours", 8.0, "psnr"]
    assert psnr["protocol"]["crop"] == "adm" and psnr["protocol"]["size"] == 16
    assert psnr["weights"]["contestant"] and psnr["items"] and psnr["spread"]
    plain = json.loads((tmp_path / "results" / "recon.json").read_text())
    for sample in plain["extras"]["samples"]:
        assert (tmp_path / "results" / sample["reconstruction"]).is_file()
        assert (tmp_path / "results" / sample["original"]).is_file()
    again = judge("compare", "results/recon.json", "--columns", "psnr,bpp", "-o", "t.md")
    assert again.code == 0, again.err
    assert "| ours | " in (tmp_path / "t.md").read_text()
    report = judge("report", "results/recon.json", "-o", "r.html")
    assert report.code == 0, report.err
    assert "data:image/webp;base64" in (tmp_path / "r.html").read_text()


def test_compare_refuses_unlike_protocols(files: Files, judge: Judge) -> None:
    base = ("recon", "--no-ground-truth", "--data", files.pictures, "-m", "psnr", "--qualities",
            50)  # fmt: skip
    assert judge(*base, "-t", "jpeg", "--size", 16, "-o", "a.json").code == 0
    assert judge(*base, "-t", "webp", "--size", 12, "-o", "b.json").code == 0
    refused = judge("compare", "a.json", "b.json")
    assert "cannot stand in one column: size is 16 in one and 12" in refused.sentence
    assert judge("compare", "a.json", "b.json", "--allow", "size").code == 0


def test_audio_and_its_dates_table(files: Files, judge: Judge, tmp_path: Path) -> None:
    done = judge("audio", "-t", f"ours={files.codec}", "opus", "--data", files.sounds,
                 "--bitrates", 12, "-m", "mel,si_sdr", "-b", "1,2", "-o", "a.json")  # fmt: skip
    assert done.code == 0, done.err
    found = scores(tmp_path / "a.json")
    assert found["ground truth", None, "mel_distance"]["value"] == 0.0
    assert found["ours", 1.0, "token_rate"]["value"] == pytest.approx(100, rel=0.05)
    assert found["ours", 2.0, "kbps/nominal"]["value"] == pytest.approx(1.0)
    assert found["opus", 12.0, "kbps"]["protocol"]["sample_rate"] == 8000
    table = judge("compare", "a.json", "--columns", "dates", "--format", "csv")
    assert table.code == 0, table.err
    assert table.out.splitlines()[0].startswith("tokenizer,#Q,kbps,token rate,SDR,SI-SNR,PESQ")


def test_word_errors_by_a_named_recogniser(files: Files, judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "asr.py").write_text(
        "def listen(x):\n"
        "    return [' '.join(str(int(abs(float(v)) * 9)) for v in one[::1600]) for one in x]\n"
    )
    done = judge("audio", "-t", "opus", "--data", files.sounds, "--bitrates", 12, "-m", "wer",
                 "--recogniser", "asr:listen", "-o", "a.json")  # fmt: skip
    assert done.code == 0, done.err
    found = scores(tmp_path / "a.json")
    assert found["ground truth", None, "wer"]["value"] == 0.0
    assert found["opus", 12.0, "wer"]["options"]["recogniser"] == "asr:listen"
    (tmp_path / "said.jsonl").write_text('{"item": "0.wav", "text": "one"}\n')
    lacking = judge("audio", "-t", "opus", "--data", files.sounds, "-m", "wer", "--recogniser",
                    "asr:listen", "--transcripts", "said.jsonl", "--bitrates", 12,
                    "--require")  # fmt: skip
    assert lacking.code == 3 and "lacks 2 of the 3 items" in " ".join(lacking.out.split())


def test_rd_writes_curve_and_scores(files: Files, judge: Judge, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = judge("rd", "-t", f"ours={files.titok}", "jpeg", "--data", files.pictures, "--size", 16,
                 "--qualities", "10,50", "-m", "psnr", "-o", "rd.json", "--count", 3)  # fmt: skip
    assert done.code == 0, done.err
    assert (tmp_path / "rd.png").read_bytes().startswith(b"\x89PNG")
    budgets = {budget for name, budget, _ in scores(tmp_path / "rd.json") if name == "ours"}
    assert budgets == {1.0, 2.0, 4.0, 8.0}
    drawn = judge("plot", "rd.json", "--y", "psnr", "-o", "again.svg")
    assert drawn.code == 0, drawn.err
    assert "<svg" in (tmp_path / "again.svg").read_text()
    assert "must end in .png" in judge("plot", "rd.json", "-o", "x.txt").sentence


def test_perturbed_sound(files: Files, judge: Judge, tmp_path: Path) -> None:
    done = judge("perturbed", "-t", f"ours={files.codec}", "--data", files.sounds, "--alphas", 1.0,
                 "--deltas", 4, "-m", "mel", "-o", "p.json")  # fmt: skip
    assert done.code == 0, done.err
    found = scores(tmp_path / "p.json")
    assert found["ours", None, "perturbed/mel_distance"]["options"]["grid"] == "own"
    assert ("ours", None, "perturbed/mel_distance/alpha=1,delta=4") in found
    refused = judge("perturbed", "-t", "opus", "--data", files.sounds)
    assert "'opus' is no tokenizer of the contract" in refused.sentence


def test_pfid_without_weights_has_another_name(
    files: Files, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv("TESSERA_WEIGHTS", raising=False)
    done = judge("pfid", "-t", f"ours={files.titok}", "--data", files.pictures, "--alphas",
                 "0.5,1.0", "--deltas", 4, "-o", "p.json")  # fmt: skip
    assert done.code == 0, done.err
    found = scores(tmp_path / "p.json")
    assert not [metric for _, _, metric in found if metric.startswith("pfid")]
    mean = found["ours", None, "perturbed/frechet/procedural-v1"]
    each = [found["ours", None, f"perturbed/frechet/procedural-v1/alpha={a},delta=4"]["value"]
            for a in ("0.5", "1")]  # fmt: skip
    assert mean["value"] == pytest.approx(sum(each) / 2)
    assert mean["protocol"]["extractor"] and "no pfid" in done.err


def test_gen(files: Files, judge: Judge, tmp_path: Path) -> None:
    import numpy as np

    from eval.originals import read_picture
    from tok_core.evaluation_crop import evaluation_crop

    pictures = [evaluation_crop(read_picture(p), "adm", 16)
                for p in sorted(files.pictures.rglob("*.png"))]  # fmt: skip
    np.savez(tmp_path / "made.npz", np.stack([np.asarray(p) for p in pictures]))
    done = judge("gen", "--samples", "same=made.npz", "--reference", files.pictures, "--size", 16,
                 "-m", "frechet/procedural-v1", "-o", "g.json", "--batch-size", 4)  # fmt: skip
    assert done.code == 0, done.err
    one = scores(tmp_path / "g.json")["same", None, "frechet/procedural-v1"]
    assert one["value"] == pytest.approx(0.0, abs=1e-3) and one["n"] == 9
    assert one["warnings"]  # far fewer pictures than feature dimensions
    assert one["protocol"]["reference_sha256"] == one["items"]


def test_statistics_stand_for_the_pictures(files: Files, judge: Judge, tmp_path: Path) -> None:
    words = ("--data", files.pictures, "--size", 16, "--network", "procedural-v1")
    made = judge("statistics", *words, "--protocol", "llamagen", "-o", "ref.npz")
    assert made.code == 0, made.err
    assert "fewer than" in made.err and "ref.npz" in made.err
    assert "exists" in judge("statistics", *words, "-o", "ref.npz").sentence
    assert "did you mean" in judge(
        "statistics", *words[:-1], "procedural-v2", "-o", "other.npz").sentence
    recon = ("recon", "-t", "jpeg", "--qualities", 50, "--data", files.pictures, "--size", 16,
             "-p", "llamagen", "-m", "frechet/procedural-v1")  # fmt: skip
    against = judge(*recon, "--reference", "ref.npz", "-o", "a.json")
    assert against.code == 0, against.err
    assert judge(*recon, "-o", "b.json").code == 0
    a, b = (scores(tmp_path / name)["jpeg", 50.0, "frechet/procedural-v1"]
            for name in ("a.json", "b.json"))  # fmt: skip
    assert a["value"] == pytest.approx(b["value"], rel=1e-6) and a["value"] > 0
    assert a["protocol"]["reference"] == "file"


def test_downstream_and_contribution(files: Files, judge: Judge, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "networks.py").write_text(
        "def means(x):\n    return x.float().flatten(2).mean(2)\n"
    )
    done = judge("downstream", "-t", f"ours={files.titok}", "jpeg", "--data", files.pictures,
                 "--size", 16, "--model", "networks:means", "--budgets", "2,8",
                 "-o", "d.json")  # fmt: skip
    assert done.code == 0, done.err
    found = scores(tmp_path / "d.json")
    assert 0 <= found["ours", 2.0, "downstream/top1_agreement"]["value"] <= 1
    assert found["jpeg", 50.0, "downstream/top1_agreement"]["value"] > 0.5
    mapped = judge("contribution", "-t", f"ours={files.titok}", "--data", files.pictures,
                   "--count", 2, "-o", "c.json")  # fmt: skip
    assert mapped.code == 0, mapped.err
    assert (tmp_path / "c.ours.png").read_bytes().startswith(b"\x89PNG")
    extras = json.loads((tmp_path / "c.json").read_text())["extras"]
    assert len(extras["contribution"]["ours"]["contribution/mse"]) == 8


def test_metrics_lists_what_is_missing(judge: Judge) -> None:
    done = judge("metrics", "--json")
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert rows["psnr"]["state"] == "ready"
    assert judge("metrics").code == 0


def test_tessera_eval_is_the_same_program(capsys: pytest.CaptureFixture[str]) -> None:
    from tessera.cli import run

    assert run(["eval", "--help"]) == 0
    assert "recon" in capsys.readouterr().out
    assert run(["eval", "recon", "--help"]) == 0
    assert "tessera eval recon" in capsys.readouterr().out
    assert run(["eval", "recom"]) == 2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from eval.cli import run; code = run(['recon', '--help']);"
        "assert code == 0; heavy = {'torch', 'PIL', 'numpy', 'torchmetrics'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
