"""Folders of records and of evals become cards: joined by prompt, with tries, numbers and what went wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from report_folders import caption, image, objects, record, tries, write_eval, write_records, write_world

from realign_cli.errors import RecordError, UsageError
from realign_cli.report.gather import PASSES, REWARD, Card, Gallery, gather
from realign_cli.report.sources import read_sources

if TYPE_CHECKING:
    from PIL import Image


def gallery(*folders: Path) -> Gallery:
    return gather(read_sources(folders))


def titles(card: Card) -> list[str]:
    return [picture.title for picture in card.pictures]


def same(one: Image.Image, other: Image.Image) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def test_two_folders_are_joined_by_prompt(tmp_path: Path) -> None:
    coarse = write_records(tmp_path / "coarse", [record("a", "one"), record("b", "two")])
    final = write_records(tmp_path / "final", [record("b", "two"), record("c", "three")], shade=10)
    made = gallery(coarse, final)
    assert made.systems == ["coarse", "final"]
    assert {card.id: titles(card) for card in made.cards} == {"a": ["coarse"], "b": ["coarse", "final"], "c": ["final"]}
    (both,) = (card for card in made.cards if card.id == "b")
    assert same(both.pictures[0].draw(), image(1)) and same(both.pictures[1].draw(), image(10))
    assert both.pictures[1].original == final / "b.png"


def test_another_prompt_under_the_same_id_is_told(tmp_path: Path) -> None:
    one = write_records(tmp_path / "one", [record("a", "a cat")])
    other = write_records(tmp_path / "other", [record("a", "a dog")])
    assert gallery(one, other).notices == ["other: 1 prompts are others than in the folders before it, such as a"]


def test_tries(tmp_path: Path) -> None:
    """The first is the coarse image, the kept one the record's own, the others lie on the strip."""
    made = [
        {"how": "draw", "caption": caption("a square", 0.4)},
        {"how": "mend", "caption": caption("a ring", 0.2), "objects": objects()},
        {"how": "draw"},  # of which the generator made no image
        {"how": "draw", "caption": caption("both", 0.9)},
        {"how": "draw", "caption": caption("neither", 0.1)},
    ]
    keys = {"tries": tries(3, *made), "caption": made[3]["caption"], "cost": {"passes": 5, "steps": None}}
    coarse = write_records(tmp_path / "coarse", [record("a", "a red square", cost={"passes": 1})])
    final = write_records(tmp_path / "final", [record("a", "a red square", **keys)], shade=10)
    (card,) = gallery(coarse, final).cards
    assert titles(card) == ["coarse", "found", "final"]
    assert [(one.title, one.kept) for one in card.tries] == [
        ("1 draw", False),
        ("2 mend", False),
        ("4 draw", True),
        ("5 draw", False),
    ]
    shown = [image(0), image(101), image(10), image(104)]
    assert all(same(one.draw(), expected) for one, expected in zip(card.tries, shown, strict=True))
    assert card.kept == "draw"
    assert card.values == {REWARD: [0.4, 0.9], PASSES: [1.0, 5.0]}
    assert card.pictures[0].caption == card.tries[0].caption


def test_what_was_found_is_drawn_over_the_draw_in_which_it_was_found(tmp_path: Path) -> None:
    made = [
        {"how": "draw", "caption": caption("a", 0.1)},
        {"how": "draw", "caption": caption("b", 0.2)},
        {"how": "mend", "caption": caption("c", 0.9), "objects": objects()},
    ]
    final = write_records(tmp_path / "final", [record("a", "a red square", tries=tries(2, *made))])
    (card,) = gallery(final).cards
    found = card.pictures[0]
    assert (found.title, [one.phrase for one in found.objects]) == ("found in try 2", ["a red square", "a blue ring"])
    picture = np.asarray(found.draw()).astype(int)
    assert picture.shape == (256, 256, 3)  # enlarged
    grey = np.asarray(image(101).convert("L"))
    inside, outside = picture[80, 80], picture[200, 200]
    assert inside[2] > inside[0] + 50, "a mask is coloured"
    assert np.ptp(outside) == 0 and outside[0] == int(grey[50, 50] * 0.6 + 64), "the rest is the second draw in grey"


def test_tag_score_and_segment_belong_to_the_images_they_are_about(tmp_path: Path) -> None:
    lines = [record("a", "a red square"), record("b", "two")]
    write_records(tmp_path / "coarse", lines, "generate")
    tags = [{"label": "square", "confidence": 0.9}]
    write_records(tmp_path / "tagged", [line | {"tags": tags} for line in lines], "tag")
    write_records(tmp_path / "segmented", [lines[0] | {"tags": tags, "objects": objects()}, lines[1]], "segment")
    chosen = {"kept": "coarse", "coarse": caption("x", 0.7), "final": caption("y", 0.3)}
    refined = [lines[0] | {"objects": objects(), "refine": chosen}, lines[1] | {"refine": {"kept": "coarse"}}]
    write_records(tmp_path / "final", refined, "refine")
    made = gallery(tmp_path)  # in the order of the method, which is not that of the names
    assert made.systems == ["coarse", "final"]
    first, second = made.cards
    assert titles(first) == ["coarse", "found", "refined", "final"] and titles(second) == ["coarse", "final"]
    assert same(first.pictures[2].draw(), image(7))
    assert (first.kept, first.values[REWARD]) == ("coarse", [0.7, 0.7])


def test_a_folder_of_other_images_is_a_system_of_its_own(tmp_path: Path) -> None:
    write_records(tmp_path / "a", [record("a", "one")], "generate")
    write_records(tmp_path / "b", [record("a", "one", tags=[])], "tag", shade=3)
    assert gallery(tmp_path).systems == ["a", "b"]


def test_several_images_of_a_prompt(tmp_path: Path) -> None:
    draws = [
        record("p", "one", caption=caption("x", 0.2)),
        record("p-1", "one", caption=caption("y", 0.6), prompt_id="p"),
    ]
    coarse = write_records(tmp_path / "coarse", draws, "generate")
    chosen = {"by": "caption.reward", "value": 0.6, "of": 2}
    best = write_records(tmp_path / "best", [draws[1] | {"select": chosen}], "select", shade=1)
    (card,) = gallery(coarse, best).cards
    assert [(one.title, one.kept) for one in card.pictures] == [
        ("coarse 1", False),
        ("coarse 2", True),
        ("best", False),
    ]
    assert card.values[REWARD] == pytest.approx([0.4, 0.6])


def test_how_an_image_was_made_is_told_once(tmp_path: Path) -> None:
    """`best` passes refined images on, and has no strips."""
    chosen = {"kept": "final", "coarse": caption("x", 0.1), "final": caption("y", 0.8)}
    refined = record("a", "a red square", objects=objects(), refine=chosen)
    coarse = write_records(tmp_path / "coarse", [record("a", "a red square")], "generate")
    final = write_records(tmp_path / "final", [refined], "refine", shade=10)
    best = write_records(tmp_path / "best", [refined], "select", shade=10)
    (best / "pictures" / "a-strip.png").unlink()
    (card,) = gallery(coarse, final, best).cards
    assert titles(card) == ["coarse", "found", "final", "best"]
    assert np.asarray(card.pictures[1].draw()).shape == (256, 256, 3)
    assert card.values[REWARD] == [0.1, 0.8, 0.8]
    assert titles(gallery(best).cards[0]) == ["best"]


def test_what_an_image_was_made_from_is_told_by_its_strip(tmp_path: Path) -> None:
    """Another system of the same ids is no origin, and gets no captions."""
    made = [{"how": "draw", "caption": caption("x", 0.1)}, {"how": "mend", "caption": caption("y", 0.9)}]
    other = write_records(tmp_path / "other", [record("a", "one"), record("b", "two")], shade=30)
    coarse = write_records(tmp_path / "coarse", [record("a", "one"), record("b", "two")])
    lines = [record(one, text, tries=tries(1, *made)) for one, text in (("a", "one"), ("b", "two"))]
    final = write_records(tmp_path / "final", lines, shade=10)
    for folders, rewards in (((other, coarse, final), [None, 0.1, None]), ((other, final), [None, None])):
        for number, card in enumerate(gallery(*folders).cards):
            assert card.values.get(REWARD, [None, None]) == rewards
            assert same(card.tries[0].draw(), image(number)) and same(card.tries[1].draw(), image(10 + number))


def test_two_systems_from_the_same_images_are_both_told(tmp_path: Path) -> None:
    coarse = write_records(tmp_path / "coarse", [record("a", "one")])
    made = [{"how": "draw", "caption": caption("x", 0.1)}, {"how": "mend", "caption": caption("y", 0.9)}]
    lines = [record("a", "one", tries=tries(1, *made))]
    folders = [write_records(tmp_path / f"t{shade}", lines, "tries", shade=shade) for shade in (10, 20)]
    (card,) = gallery(coarse, *folders).cards
    assert [one.title for one in card.tries] == ["t10 1 draw", "t10 2 mend", "t20 1 draw", "t20 2 mend"]
    assert all(same(card.tries[i].draw(), image(number)) for i, number in enumerate((0, 10, 0, 20)))


def test_columns_of_evals(tmp_path: Path) -> None:
    made = gallery(write_world(tmp_path / "out"))
    values = {card.id: card.values.get("clip") for card in made.cards}
    assert values == {"0": [0.5, 0.875], "1": [0.75, 0.75], "2": None, "3": [0.9, 0.4]}
    assert made.columns == [REWARD, "clip", PASSES]
    assert made.notices == []


def test_an_eval_knows_its_folder_on_another_computer_by_name(tmp_path: Path) -> None:
    write_world(tmp_path / "out")
    moved = shutil.move(tmp_path / "out", tmp_path / "moved")
    assert gallery(Path(moved)).cards[0].values["clip"] == [0.5, 0.875]
    assert gallery(Path(moved) / "final", Path(moved) / "eval").notices == [
        f"eval: it measured {tmp_path / 'out' / 'coarse'}, which is not among the folders shown"
    ]


def test_of_two_evals_of_a_folder_the_first_counts(tmp_path: Path) -> None:
    final = write_records(tmp_path / "final", [record("a", "one")])
    first = write_eval(tmp_path / "first", final, {"a": {"clip": 0.25, "blip": None}})
    second = write_eval(tmp_path / "second", final, {"a": {"clip": 0.5, "blip": 0.75}})
    (card,) = gallery(final, first, second).cards
    assert card.values == {"clip": [0.25], "blip": [0.75]}


def test_what_fails_is_a_card_with_its_reason(tmp_path: Path) -> None:
    failure = {"stage": "tag", "kind": "k", "message": "no tags"}
    mended = {"stage": "score", "kind": "k", "message": "by rules", "recovered": True}
    lines = [record("a", "one", failures=[failure]), record("b", "two", failures=[mended]), record("c", "three")]
    nowhere = json.dumps(record("e", "four", tries=tries(2, {"how": "draw"})))
    folder = write_records(tmp_path / "f", [*lines, "{", record("a", "again"), nowhere])
    (folder / "c.png").write_bytes(b"no image")
    one, two, three, torn, again, lost = gallery(folder).cards
    assert (one.failures, one.remarks) == (["tag: no tags"], [])
    assert (two.failures, two.remarks) == ([], ["score: by rules"])
    with pytest.raises(RecordError, match="not a readable image"):
        three.pictures[0].draw()
    assert "not a JSON record" in torn.failures[0] and torn.id == f"{folder / 'metadata.jsonl'}:4"
    assert "id 'a' was used before" in again.failures[0]
    assert "kept must be the place of one of those made" in lost.failures[0]


def test_boxes_outside_an_image_and_masks_of_another_one(tmp_path: Path) -> None:
    far = [{**objects()[0], "boxes": [[10**12, -5, -(10**12), 10**12]]}]
    lines = [record("a", "one", objects=far), record("b", "two", objects=objects(32))]
    inside, other = (card.pictures[1] for card in gallery(write_records(tmp_path / "f", lines)).cards)
    assert inside.draw().size == (256, 256)
    with pytest.raises(RecordError, match="the mask is 32x32, the image 64x64"):
        other.draw()


def test_maps_are_shown_where_a_stage_left_them(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "final", [record("a", "one"), record("b", "two")])
    image(5).save(folder / "pictures" / "a-maps.png")
    first, second = gallery(folder).cards
    assert titles(first) == ["final", "attention maps"] and titles(second) == ["final"]
    assert same(first.pictures[1].draw(), image(5))


def test_labels_tell_folders_of_one_name_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_records(tmp_path / name / "final", [record("a", "one")])
    assert gallery(tmp_path / "x", tmp_path / "y").systems == ["x/final", "y/final"]


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("nothing", None, "no such folder; give folders that realign wrote"),
        ("empty", ("other.txt", ""), "neither records nor an eval in it"),
        ("torn", (".metadata.jsonl.part", ""), "its run was interrupted"),
        (
            "eval",
            ("metrics.json", '{"in": "x"}'),
            r"metrics.json: not readable \(KeyError\); run 'realign eval --out' again",
        ),
    ],
)
def test_folders_that_are_none(tmp_path: Path, name: str, file: tuple[str, str] | None, words: str) -> None:
    if file:
        (tmp_path / name).mkdir()
        (tmp_path / name / file[0]).write_text(file[1])
    with pytest.raises(UsageError, match=words):
        read_sources([tmp_path / name])


def test_an_account_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "f", [record("a", "one")], "generate")
    (folder / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"run.json: not readable"):
        read_sources([folder])
