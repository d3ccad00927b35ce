"""Several images of a prompt: each from its own noise, the same whatever is drawn beside it, in any shard.

Real processes on the embedded models.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs import Finished, Run, records, records_and_images, succeed

PROMPTS = "a red circle and a blue square\na green ring above a yellow triangle\na pink cross\n"
QUICK = ("--set", "generator.steps=2", "-q")


@pytest.fixture(scope="module")
def here(realign: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which coarse/ has three images of each prompt; read it only."""
    folder = tmp_path_factory.mktemp("draws")
    (folder / "prompts.txt").write_text(PROMPTS)
    succeed(generate(realign, folder, 3, "coarse"))
    return folder


def generate(realign: Run, cwd: Path, count: int, out: str, *more: object) -> Finished:
    words = ("--prompts", "prompts.txt", "--out", out, "--images-per-prompt", count)
    return realign("generate", *words, *QUICK, *more, cwd=cwd)


def test_more_draws_leave_the_others_as_they_are(realign: Run, here: Path) -> None:
    three = records_and_images(here / "coarse")
    assert [line["id"] for line in records(here / "coarse")] == [
        f"00000{prompt}{draw}" for prompt in range(3) for draw in ("", "-1", "-2")
    ]
    assert len({data for name, data in three.items() if name.endswith(".png")}) == 9
    succeed(realign("generate", "--prompts", "prompts.txt", "--out", "one", *QUICK, cwd=here))
    succeed(generate(realign, here, 2, "two", "--batch-size", 5))
    for name, count in (("one", 3), ("two", 6)):
        images = {file: data for file, data in records_and_images(here / name).items() if file.endswith(".png")}
        assert len(images) == count and images.items() <= three.items()
    assert [line for line in records(here / "coarse") if not str(line["id"]).endswith("-2")] == records(here / "two")
    assert [line["prompt_id"] for line in records(here / "two")] == [f"00000{i // 2}" for i in range(6)]
    assert not any("prompt_id" in line for line in records(here / "one"))


@pytest.mark.parametrize("count", [2, 3])
def test_shards_give_the_same_bytes(realign: Run, here: Path, count: int) -> None:
    for index in range(1, count + 1):
        succeed(generate(realign, here, 3, f"of-{count}", "--shard", f"{index}/{count}"))
    assert records_and_images(here / f"of-{count}") == records_and_images(here / "coarse")


def test_another_number_is_refused(realign: Run, here: Path) -> None:
    before = records_and_images(here / "coarse")
    done = generate(realign, here, 4, "coarse")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "images_per_prompt (3 before, 4 now); --overwrite starts over" in done.stderr
    assert records_and_images(here / "coarse") == before


def test_ids_that_collide_are_refused_before_a_folder_is_made(realign: Run, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "a red circle", "id": "a"}\n{"text": "a blue ring", "id": "a-1"}\n')
    done = realign("generate", "--prompts", "p.jsonl", "--out", "out", "--images-per-prompt", 2, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "p.jsonl:2: id 'a-1' is that of draw 1 of 'a' too" in done.stderr
    assert not (tmp_path / "out").exists()


def test_eval_pairs_by_prompt(realign: Run, here: Path, tmp_path: Path) -> None:
    """Whatever number of images either side has."""
    words = ("--in", here / "coarse", "--metrics", "oracle", "--out", "measured")
    shown = succeed(realign("eval", *words, cwd=tmp_path)).stdout
    plain = json.loads((tmp_path / "measured" / "metrics.json").read_text())
    scores = [json.loads(line) for line in (tmp_path / "measured" / "scores.jsonl").read_text().splitlines()]
    assert [(one["id"], one["prompt_id"]) for one in scores[:2]] == [("000000", "000000"), ("000000-1", "000000")]
    presence = plain["metrics"][0]
    assert (presence["metric"], presence["value"]["n"], len(scores)) == ("presence", 3, 9)
    assert presence["value"]["mean"] == pytest.approx(sum(one["presence"] for one in scores) / 9)
    assert "cost (in): 1.00 passes of the generator, 2.00 steps per image  n 9" in shown
    assert any("9 images of 3 prompts" in note for note in plain["notes"])
    first = [line for line in (here / "coarse" / "metadata.jsonl").read_text().splitlines() if '-1"' in line]
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "metadata.jsonl").write_text("\n".join(first))
    for path in (here / "coarse").glob("*-1.png"):
        (tmp_path / "some" / path.name).write_bytes(path.read_bytes())
    paired = json.loads(succeed(realign("eval", *words[:4], "--baseline", "some", "--json", cwd=tmp_path)).stdout)
    row = next(row for row in paired["metrics"] if row["metric"] == "presence")
    other = {one["prompt_id"]: one["presence"] for one in scores if one["id"].endswith("-1")}
    assert row["difference"]["n"] == 3
    assert row["baseline"]["mean"] == pytest.approx(sum(other.values()) / 3)


@pytest.fixture(scope="module")
def best(realign: Run, here: Path) -> Path:
    """The best of three, folder by folder."""
    succeed(realign("caption-reward", "--in", "coarse", "--out", "captioned", "-q", cwd=here))
    succeed(realign("select", "--in", "captioned", "--out", "best", "-q", cwd=here))
    return here / "best"


def test_a_pipe_gives_what_folders_give(
    realign: Run, shell: Callable[[str, Path], Finished], here: Path, best: Path
) -> None:
    captioned = {str(line["id"]): line["caption"]["reward"] for line in records(here / "captioned")}  # type: ignore[index]
    for line in records(best):
        rewards = [reward for i, reward in captioned.items() if i.startswith(str(line["prompt_id"]))]
        assert line["cost"] == {"passes": 3, "steps": 6}
        assert line["select"] == {"by": "caption.reward", "value": max(rewards), "of": 3}
        assert (best / str(line["file_name"])).read_bytes() == (here / "coarse" / f"{line['id']}.png").read_bytes()
    draw = f"realign generate --prompts prompts.txt --images-per-prompt 3 --out coarse {' '.join(QUICK)}"
    judge = "realign eval --baseline coarse --metrics oracle --json"
    piped = succeed(shell(f"{draw} | realign caption-reward -q | realign select -q | {judge} --in -", here))
    kept = succeed(shell(f"{judge} --in best", here))
    of_pipe, of_folder = json.loads(piped.stdout), json.loads(kept.stdout)
    assert of_folder["cost"]["in"].pop("seconds").keys() == {"select"}  # which a pipe does not tell
    assert {**of_pipe, "in": "best"} == of_folder
    assert {row["value"]["n"] for row in of_folder["metrics"] if not row["category"]} <= {1, 3}
    assert of_folder["cost"]["baseline"].pop("seconds").keys() == {"generate"}
    assert of_folder["cost"] == {"in": {"n": 3, "passes": 3, "steps": 6}, "baseline": {"n": 9, "passes": 1, "steps": 2}}
    succeed(shell("realign caption-reward -q --in coarse | realign select -q --out best-piped", here))
    assert records_and_images(here / "best-piped") == records_and_images(best)


def test_shards_select_the_same(realign: Run, here: Path, best: Path) -> None:
    for shard in ("2/2", "1/2"):
        succeed(realign("select", "--in", "captioned", "--out", "best-of-2", "--shard", shard, "-q", cwd=here))
    assert records_and_images(here / "best-of-2") == records_and_images(best)


def test_what_select_cannot_go_by_is_told_before_a_folder_is_made(realign: Run, here: Path) -> None:
    done = realign("select", "--in", "coarse", "--out", "none", cwd=here)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "coarse/metadata.jsonl:1: no 'caption'; run 'realign caption-reward' first" in done.stderr
    assert not (here / "none").exists()


def test_select_by_a_column_of_an_evaluation(realign: Run, here: Path) -> None:
    succeed(realign("eval", "--in", "coarse", "--metrics", "oracle", "--out", "measured", "-q", cwd=here))
    words = ("--in", "coarse", "--by", "presence", "--scores", "measured/scores.jsonl", "--top", 2)
    summary = json.loads(succeed(realign("select", *words, "--out", "two-best", "--json", cwd=here)).stdout)
    assert (summary["records"], summary["passes"], summary["steps"]) == (6, 9, 18)  # nothing spent is lost
    chosen = records(here / "two-best")
    assert [line["prompt_id"] for line in chosen] == [f"00000{i // 2}" for i in range(6)]
    assert {line["select"]["by"] for line in chosen} == {"presence"}


def test_export_has_all_draws_of_a_prompt(realign: Run, here: Path, tmp_path: Path) -> None:
    succeed(realign("export", "t2i-compbench", "--in", here / "coarse", "--out", "out", "-q", cwd=tmp_path))
    assert len(list((tmp_path / "out" / "samples").glob("a pink cross_*.png"))) == 3
