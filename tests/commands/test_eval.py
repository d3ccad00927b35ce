"""What can be measured is measured, whatever lies beside it; references of all kinds agree; nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from realign_cli.app import app
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train.publish import WEIGHTS

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program in this process, which has the libraries loaded."""

    def run(*arguments: object, cwd: Path | None = None) -> CompletedProcess[str]:
        if cwd:
            monkeypatch.chdir(cwd)
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    return run


def folder(path: Path, images: Sequence[Image.Image], **keys: Sequence[object]) -> Path:
    path.mkdir(parents=True)
    lines = []
    for i, image in enumerate(images):
        image.save(path / f"{i}.png")
        own = {key: values[i] for key, values in keys.items()}
        lines.append({"id": str(i), "text": "a red circle", "file_name": f"{i}.png"} | own)
    write(path, lines)
    return path


def write(path: Path, lines: Sequence[dict[str, object]]) -> None:
    (path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def drawn(count: int, seed: int = 1) -> list[tuple[Image.Image, str]]:
    stream = scenes.scenes(seed, held_out=True, count=2)
    made = [next(stream) for _ in range(count)]
    return [(Image.fromarray(scenes.render(scene)), scene.caption) for scene in made]


def png(width: int, height: int) -> bytes:
    """The head of a PNG that claims to be that large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_every_kind_of_image_is_measured_and_what_cannot_be_is_named(realign: Run, tmp_path: Path) -> None:
    (image, caption), *_ = drawn(1)
    grey = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    turned = image.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    other = Image.new("RGB", (64, 64), "white")
    saved: dict[str, Callable[[Path], object]] = {
        "plain.png": image.save,
        "large.png": image.resize((192, 192), Image.Resampling.NEAREST).save,
        "cmyk.tiff": image.convert("CMYK").save,
        "grey16.png": grey.save,
        "grey8.png": image.convert("L").save,
        "alpha.png": image.convert("RGBA").save,
        "turned.png": lambda path: turned.save(path, exif=exif),
        "moving.webp": lambda path: image.save(path, save_all=True, append_images=[other], lossless=True),
        "empty.png": lambda path: path.write_bytes(b""),
        "bomb.png": lambda path: path.write_bytes(png(30000, 30000)),
        "torn.png": lambda path: path.write_bytes(png(64, 64)),
        "unlisted.png": image.save,
    }
    source = tmp_path / "source"
    source.mkdir()
    for name, save in saved.items():
        save(source / name)
    names = [name for name in saved if name != "unlisted.png"]
    lines: list[dict[str, object]] = [{"id": Path(n).stem, "text": caption, "file_name": n} for n in names]
    lines += [
        {"id": "gone", "text": caption, "file_name": "gone.png"},
        {"id": "up", "text": "x", "file_name": "../x.png"},
    ]
    lines += [{"id": "silent", "text": " ", "file_name": "plain.png"}, {"id": "none", "text": caption}]
    write(source, lines)
    done = realign("eval", "--in", source, "--metrics", "oracle", "--out", tmp_path / "out")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    for name in (
        "empty.png",
        "bomb.png",
        "torn.png",
        "gone.png",
        "'../x.png' leaves its folder",
        "no prompt to judge by",
    ):
        assert name in done.stderr
    assert "record none names no image" in done.stderr
    assert "source: 1 images have no record, such as unlisted.png" in done.stderr
    assert done.stderr.count("\n") == 8
    scores = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    correct = {score["id"]: score["all_correct"] for score in scores}
    coloured = ("plain", "large", "cmyk", "alpha", "turned", "moving")
    assert correct == {**dict.fromkeys(coloured, 1.0), "grey16": 0.0, "grey8": 0.0}
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["failed"] == 7
    assert {row["metric"]: row["value"]["n"] for row in report["metrics"]}["all_correct"] == 8


@pytest.mark.parametrize(
    ("line", "code", "complaint"),
    [
        ("eval --in empty", 2, "empty: no metadata.jsonl in this folder"),
        ("eval --in plain --metrics oracle", 1, "'realign import' joins images and prompts"),
        ("eval --in one --metrics fid --reference plain", 1, "fid needs at least 2 images on each side, and here is 1"),
        (
            "eval --in one --metrics fid --reference other.npz",
            2,
            "statistics of 'others', but the images here get 'scene",
        ),
        ("eval --in one --metrics fid --reference none.npz", 2, "none.npz: no such file"),
        (
            "eval --in one --metrics fid --reference nan.npz",
            2,
            "nan.npz: not an .npz of statistics with 'mu' and 'sigma' (",
        ),
        (
            "eval --in one --metrics fid --set fid.reference=",
            2,
            "--metrics fid compares with real images: give --reference",
        ),
        ("eval --in one --metrics ,", 2, "--metrics: name some of fid, clip"),
        ("eval stats --in plain --out stats.txt", 2, "--out stats.txt: a file of statistics ends in .npz"),
        ("eval stats --in one --out stats.npz --preset inception", 1, "no Inception weights at pytorch-fid"),
        ("eval --in one --metrics clip --preset inception", 2, "no such metric in this preset; there are fid"),
    ],
)
def test_one_line_that_names_the_remedy(
    inside: Run, here: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int, complaint: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a port that nobody serves
    done = inside(*line.split(), cwd=here)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("realign eval") and done.stderr.count("\n") == 1
    assert complaint in done.stderr


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("here")
    (path / "empty").mkdir()
    folder(path / "one", [drawn(1)[0][0]])
    (folder(path / "plain", [image for image, _ in drawn(5)]) / "metadata.jsonl").unlink()
    np.savez(path / "nan.npz", mu=np.zeros(63), sigma=np.full((63, 63), np.nan))
    np.savez(path / "other.npz", mu=np.zeros(64), sigma=np.eye(64), n=9, features="others")
    return path


def test_references_of_all_kinds_agree(inside: Run, tmp_path: Path) -> None:
    records = folder(tmp_path / "records", [image for image, _ in drawn(12)])
    plain = folder(tmp_path / "plain", [image for image, _ in drawn(12)])
    (plain / "metadata.jsonl").unlink()
    final = folder(tmp_path / "final", [image for image, _ in drawn(9, seed=2)])
    done = inside("eval", "stats", "--in", plain, "--out", tmp_path / "stats.npz")
    assert done.returncode == 0, done.stderr
    assert "stats.npz: 12 images, scene net" in done.stderr
    found = []
    for reference in (records, plain, tmp_path / "stats.npz"):
        done = inside("eval", "--in", final, "--metrics", "fid", "--reference", reference, "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert any("fewer than 2,048 images is biased" in note for note in report["notes"])
        assert report["fid"]["features"].startswith("scene net")
        found.append(report["fid"]["in"])
    assert [(one["n"], one["n_reference"], one["kid"] is None) for one in found] == [
        (9, 12, False),
        (9, 12, False),
        (9, 12, True),
    ]
    assert found[1]["fid"] == pytest.approx(found[0]["fid"], rel=1e-9)
    assert found[2]["fid"] == pytest.approx(found[0]["fid"], rel=1e-6)


def test_a_damaged_reference_is_told_and_fails(inside: Run, tmp_path: Path) -> None:
    real = folder(tmp_path / "real", [image for image, _ in drawn(8)])
    (real / "metadata.jsonl").unlink()
    whole = (real / "1.png").read_bytes()
    damage = {1: whole[: len(whole) // 2], 3: b"", 4: b"<html>404 Not Found</html>", 5: b"version https://git-lfs"}
    for number, data in damage.items():
        (real / f"{number}.png").write_bytes(data)
    final = folder(tmp_path / "final", [image for image, _ in drawn(4, seed=2)])
    line = ("eval", "--in", final, "--reference", real, "--metrics", "fid", "--json")
    done = inside(*line)
    assert done.returncode == 3
    assert [f"{number}.png: not a readable image" in done.stderr for number in range(8)] == [
        n in damage for n in range(8)
    ]
    report = json.loads(done.stdout)
    assert report["failed"] == 4
    assert (report["fid"]["reference"]["name"], report["fid"]["reference"]["n"]) == (str(real), 4)
    for number in damage:
        (real / f"{number}.png").unlink()
    mended = inside(*line)
    assert (mended.returncode, mended.stderr) == (0, "")
    assert json.loads(mended.stdout)["fid"] == report["fid"]  # of the same images, and so of one SHA-256
    (real / "0.png").write_bytes((real / "2.png").read_bytes())
    assert json.loads(inside(*line).stdout)["fid"]["reference"]["sha256"] != report["fid"]["reference"]["sha256"]


def test_the_presets_own_reference(inside: Run, tmp_path: Path) -> None:
    final = folder(tmp_path / "final", [image for image, _ in drawn(4, seed=2)])
    done = inside("eval", "--in", final, "--metrics", "fid", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    sha256 = hashlib.sha256((WEIGHTS / "reference" / "stats.npz").read_bytes()).hexdigest()
    assert found["fid"]["reference"] == {"name": "package:reference", "n": 5000, "sha256": sha256}
    assert any("fewer than 2,048 images is biased" in note for note in found["notes"])
    assert 0 < found["fid"]["in"]["fid"] < 10
    stats = tmp_path / "mine.npz"
    assert inside("eval", "stats", "--in", final, "--out", stats).returncode == 0
    done = inside("eval", "--in", final, "--metrics", "fid", "--set", f"fid.reference={stats}", "--json")
    assert json.loads(done.stdout)["fid"]["in"]["fid"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("preset", "complaint"),
    [
        ("inception", "'realign download --preset inception' fetches its images (6.6 GB)"),
        ("sd15", "'realign download' fetches its images (6.6 GB)"),
    ],
)
def test_what_an_absent_reference_takes_is_told_before_any_work(
    inside: Run, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, complaint: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = inside(
        "eval",
        "--in",
        "one",
        "--metrics",
        "fid,clip"[: 3 if preset == "inception" else 8],
        "--preset",
        preset,
        cwd=here,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    for part in (
        "fid compares with COCO 2014 val",
        complaint,
        "--in DIR",
        "Or give --reference DIR",
        "leave fid out",
    ):
        assert part in done.stderr


def test_comparison_pairs_categories_and_a_second_run(inside: Run, tmp_path: Path) -> None:
    pictures = drawn(6)
    images, texts = [image for image, _ in pictures], [text for _, text in pictures]
    swapped = [{"id": str(i), "text": f"{text.split(' ', 3)[-1]} {text}"} for i, text in enumerate(texts)]
    texts[1] = f"two things: {texts[1]}"
    final = folder(tmp_path / "final", images, text=texts, pair=swapped)
    coarse = folder(tmp_path / "coarse", [*images[:2], *images[1:5]], text=texts, pair=swapped)
    cache, out = tmp_path / "cache", tmp_path / "out"
    command = ("eval", "--in", final, "--baseline", coarse, "--metrics", "clip,oracle", "--cache", cache, "--out", out)
    done = inside(*command)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = {(row["metric"], row["category"]): row for row in json.loads((out / "metrics.json").read_text())["metrics"]}
    assert rows["clip", None]["difference"]["n"] == 6 and rows["clip", "number"]["value"]["n"] == 1
    assert rows["clip", None]["won"] + rows["clip", None]["lost"] == 4  # the first two images are the same
    assert rows["all_correct", None]["lost"] == 0
    assert rows["clip_prefers_own", None]["value"]["mean"] > 0.5
    assert "prompts cut" in done.stdout and "not clamped, not scaled" in done.stdout
    assert {path.name for path in out.iterdir()} >= {"metrics.json", "scores.jsonl", "intervals.png", "values.png"}
    coarse_scores = [json.loads(line) for line in (out / "baseline_scores.jsonl").read_text().splitlines()]
    assert sum(one["clip"] for one in coarse_scores) / 6 == pytest.approx(rows["clip", None]["baseline"]["mean"])
    drops = [json.loads(line) for line in (out / "worst.jsonl").read_text().splitlines()]
    assert all(drop["difference"] < 0 and Path(drop["image"]).exists() for drop in drops)
    assert bool(drops) == (out / "worst.png").exists()

    def remembered() -> int:
        return int(sqlite3.connect(cache / "eval.sqlite").execute("SELECT count(*) FROM answers").fetchone()[0])

    before, first = remembered(), {path.name: path.read_bytes() for path in out.iterdir()}
    assert inside(*command).returncode == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    assert remembered() == before
    more = [*pictures, *drawn(1, seed=9)]
    folder(tmp_path / "more", [image for image, _ in more], text=[*texts, more[-1][1]], pair=[*swapped, None])
    assert inside(*command[:2], tmp_path / "more", *command[3:]).returncode == 0
    assert remembered() == before + 1  # clip of one image; the oracle is always asked
