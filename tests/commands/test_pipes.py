"""Pipes give what folders give, and no image depends on its batch; for runs that are killed see tests/faults.

Real processes on the embedded models.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from support.runs import Run, contents, records_and_images, succeed

from realign_cli import presets


def records(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def unnamed(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key != "file_name"} for line in lines]


@pytest.fixture(scope="module")
def final(realign: Run, coarse: Path) -> Path:
    """Refined by one command, which runs tag, score and segment itself."""
    succeed(realign("refine", "--in", "coarse", "--out", "final", cwd=coarse.parent))
    return coarse.parent / "final"


@pytest.fixture(scope="module")
def one_by_one(realign: Run, coarse: Path) -> Path:
    """What `coarse` holds, generated in batches of one, without a break."""
    succeed(
        realign("generate", "--prompts", "../prompts.txt", "--out", ".", "--batch-size", 1, cwd=_empty(coarse, "1"))
    )
    return coarse.parent / "1"


def _empty(coarse: Path, name: str) -> Path:
    (coarse.parent / name).mkdir()
    return coarse.parent / name


def test_a_pipe_gives_what_one_command_gives(shell: Run, coarse: Path, final: Path) -> None:
    line = "realign tag -q --in coarse | realign score -q | realign segment -q | realign refine -q --out piped"
    done = succeed(shell(line, coarse.parent))
    assert records_and_images(coarse.parent / "piped") == records_and_images(final)
    assert done.stderr == ""  # no library talks here either
    kept = records((final / "metadata.jsonl").read_text())
    assert unnamed(records(done.stdout)) == unnamed(kept)
    assert [record["file_name"] for record in records(done.stdout)] == [
        str(coarse.parent / "piped" / str(record["file_name"])) for record in kept
    ]
    assert any(record["refine"]["kept"] == "final" for record in kept)  # type: ignore[index]


def test_folders_give_what_one_command_gives(realign: Run, coarse: Path, final: Path) -> None:
    source = "coarse"
    for command in ("tag", "score", "segment", "refine"):
        succeed(realign(command, "--in", source, "--out", f"after-{command}", cwd=coarse.parent))
        source = f"after-{command}"
    assert records_and_images(coarse.parent / source) == records_and_images(final)
    for name, data in records_and_images(coarse).items():
        if name.endswith(".png"):
            assert (coarse.parent / "after-segment" / name).read_bytes() == data
    before = contents(coarse.parent / "after-segment")
    again = realign("segment", "--in", "after-score", "--out", "after-segment", "--json", cwd=coarse.parent)
    assert json.loads(succeed(again).stdout)["kept"] == 4
    assert contents(coarse.parent / "after-segment") == before


def test_again_changes_no_byte(realign: Run, coarse: Path, final: Path) -> None:
    for folder, command in (
        (coarse, ("generate", "--prompts", "prompts.txt", "--out", "coarse")),
        (final, ("refine", "--in", "coarse", "--out", "final")),
    ):
        before = contents(folder)
        done = succeed(realign(*command, "--json", cwd=coarse.parent))
        assert json.loads(done.stdout)["kept"] == 4
        assert contents(folder) == before


def test_datasets_reads_the_folders(coarse: Path, final: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    for folder in (coarse, final):
        loaded = load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / folder.name))
        assert loaded["id"] == [f"{i:06d}" for i in range(4)]
        assert loaded["text"][2] == "a pink cross"
        assert loaded[2]["image"].convert("RGB").tobytes() == Image.open(folder / "000002.png").tobytes()


def test_no_image_depends_on_its_batch(coarse: Path, one_by_one: Path) -> None:
    assert records_and_images(one_by_one) == records_and_images(coarse)


def test_captions_are_rewarded(realign: Run, coarse: Path) -> None:
    done = succeed(realign("caption-reward", "--in", "coarse", "--out", "captioned", cwd=coarse.parent))
    lines = records((coarse.parent / "captioned" / "metadata.jsonl").read_text())
    assert unnamed(lines) == unnamed(records(done.stdout))
    rewards = [line["caption"]["reward"] for line in lines]  # type: ignore[index]
    assert len(rewards) == 4 and all(-1 <= reward <= 1 for reward in rewards)
    assert all(line["caption"]["text"] for line in lines)  # type: ignore[index]


def test_frechet_distance_to_rendered_scenes(shell: Run, coarse: Path) -> None:
    line = '"$PYTHON" -m realign_cli.tinyworld render -n 8 --out real; realign eval --in coarse --metrics fid,oracle '
    done = succeed(shell(line + "--reference real --out measured --json", coarse.parent))
    report = json.loads(done.stdout)
    assert report == json.loads((coarse.parent / "measured" / "metrics.json").read_text())
    assert (report["fid"]["in"]["n"], report["fid"]["in"]["n_reference"]) == (4, 8)
    assert report["fid"]["in"]["fid"] > 0
    assert len((coarse.parent / "measured" / "scores.jsonl").read_text().splitlines()) == 4


def test_a_shard_may_be_empty(realign: Run, coarse: Path) -> None:
    """It ends well, so that an array of jobs does."""
    done = succeed(
        realign("refine", "--in", "coarse", "--shard", "1/997", "--out", "none", "--json", cwd=coarse.parent)
    )
    assert json.loads(done.stdout)["records"] == 0
    assert (coarse.parent / "none" / ".metadata.jsonl.done-1-of-997").read_bytes() == b""


def test_another_setting_is_refused_and_overwrite_starts_over(realign: Run, coarse: Path) -> None:
    folder = coarse.parent / "other"
    shutil.copytree(coarse, folder)
    before = contents(folder)
    command = ("generate", "--prompts", "prompts.txt", "--out", "other", "--set", "generator.steps=2")
    refused = realign(*command, cwd=coarse.parent)
    assert refused.returncode == 2
    assert "settings.generator.steps (20 before, 2 now); --overwrite starts over" in refused.stderr
    assert contents(folder) == before
    succeed(realign(*command, "--overwrite", cwd=coarse.parent))
    after = contents(folder)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before if name != "metadata.jsonl")


@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_leaves_early_is_no_error(shell: Run, coarse: Path, reader: str) -> None:
    done = shell(f"realign tag --in coarse --batch-size 1 -q | {reader}", coarse.parent)
    assert done.returncode in (0, 141)
    assert done.stderr == ""
    assert [record["id"] for record in records(done.stdout)] == (["000000"] if reader == "head -1" else [])


def test_demo_goes_on_past_a_record_that_fails(realign: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(tmp_path)]))
    (tmp_path / "mine.txt").write_text("a red circle and a blue square\na blue ring and a red ring and a red circle\n")
    (tmp_path / "moody.py").write_text(
        "from dataclasses import replace\n"
        "from realign_cli.errors import RecordError\n"
        "from realign_cli.models.language.rule_scorer import RuleScorer\n\n\n"
        "class Moody(RuleScorer):\n"
        "    def score(self, prompts, labels):\n"
        "        no = RecordError('refusal', 'no rings')\n"
        "        scored = zip(prompts, super().score(prompts, labels))\n"
        "        return [replace(one, recovered=no) if 'ring' in prompt else one for prompt, one in scored]\n"
    )
    packaged = (Path(presets.__file__).parent / "tiny.toml").read_text()
    preset = packaged.replace("realign_cli.models.language.rule_scorer:RuleScorer", "moody:Moody")
    (tmp_path / "moody.toml").write_text(preset)
    done = realign("demo", "--prompts", "mine.txt", "--out", "demo", "--preset", "moody.toml", cwd=tmp_path)
    assert done.returncode == 3
    assert "metadata.jsonl:2: tries: no rings" in done.stderr
    assert "all_correct" in done.stdout
    good, bad = records((tmp_path / "demo" / "final" / "metadata.jsonl").read_text())
    assert "tries" in good and "failures" not in good
    assert [failure["kind"] for failure in bad["failures"]] == ["refusal"]  # type: ignore[attr-defined]


def test_demo_shows_the_whole_method(realign: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a red circle and a blue square\n")
    done = succeed(realign("demo", "-q", "--prompts", "mine.txt", "--out", "demo", cwd=tmp_path))
    assert done.stderr == ""
    (record,) = records((tmp_path / "demo" / "final" / "metadata.jsonl").read_text())
    assert {"caption", "tries", "cost"} <= record.keys()
    assert record["cost"] == {"passes": len(record["tries"]["made"]), "steps": 20 * len(record["tries"]["made"])}
    assert Image.open(tmp_path / "demo" / "final" / "pictures" / "contact_sheet.png").width > 500
    assert "a red circle and a blue square" in (tmp_path / "demo" / "report.html").read_text()
    report = json.loads((tmp_path / "demo" / "eval" / "metrics.json").read_text())
    rows = {row["metric"]: row for row in report["metrics"]}
    assert {"clip", "negclip", "blip_itc", "blip_itm", "all_correct"} <= rows.keys()
    assert all(row["value"]["n"] == row["difference"]["n"] == 1 for row in rows.values())
