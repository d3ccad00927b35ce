"""Which places of a prompt have maps, whose mask is whose, and what refining says of maps before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from realign_cli.errors import RecordError
from realign_cli.evaluation.map_shares import map_line, map_shares
from realign_cli.models.language.rule_parser import RuleParser
from realign_cli.records import Object, PhraseMap, Record, WordMap
from realign_cli.roles import ATTENTION_MAPS, NounPhrase, Region, Request
from realign_cli.settings import Modulation
from realign_cli.stages import maps
from realign_cli.stages.base import Item, Outcome
from realign_cli.stages.refine import Refine
from realign_cli.stages.run_lengths import encode

PROMPT = "a red cup and a Red dog on a mat"
MODULATION = Modulation(1.0, 0.3, 5.0, 0.3, True, True, True, False)


def mask(*columns: int) -> np.ndarray:
    found = np.zeros((4, 4), bool)
    found[:, list(columns)] = True
    return found


def phrases(prompt: str) -> tuple[NounPhrase, ...]:
    return RuleParser().parse([prompt])[0]


def texts(prompt: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    return [prompt[slice(*span)] for span in spans]


def test_phrases_their_attributes_and_other_words_have_maps() -> None:
    """Each place once, whole words only, whatever their case."""
    found = maps.places(PROMPT, phrases(PROMPT), ["on a", "red", "at"])
    assert texts(PROMPT, found) == ["a red cup", "red", "a Red dog", "Red", "a mat", "on a"]
    assert maps.places(PROMPT, phrases(PROMPT), []) == found[:5]
    assert maps.name_of(PROMPT, found[3]) == "16:19 Red"


def test_a_phrase_has_the_masks_of_the_shortest_regions_that_hold_its_head() -> None:
    prompt = "a man in a red hat and a red hat"
    man, hat, other = phrases(prompt)
    whole = Region("a man in a red hat", 2.0, mask(0))
    one, two = Region("red hat", 2.0, mask(1)), Region("red hat", 0.5, mask(3))
    assert np.array_equal(maps.mask_of(prompt, man, [whole, one, two]), mask(0))  # type: ignore[arg-type]
    for phrase in (hat, other):
        assert np.array_equal(maps.mask_of(prompt, phrase, [whole, one, two]), mask(1, 3))  # type: ignore[arg-type]
    assert np.array_equal(maps.mask_of(prompt, hat, [whole]), mask(0))  # type: ignore[arg-type]
    assert maps.mask_of(prompt, other, [whole, Region("", 2.0, mask(2))]) is None


class Painter:
    """Draws white, and attends to the cells of each place by its length: that many in the first, one in the others."""

    steps = 5
    generator = parser = property(lambda self: self)

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def parse(self, prompts: Sequence[str]) -> list[tuple[NounPhrase, ...]]:
        return RuleParser().parse(prompts)

    def generate(self, requests: Sequence[Request], control: object = None) -> list[Image.Image]:
        self.requests += requests
        images = []
        for request in requests:
            image = Image.new("RGB", (4, 4), "white")
            if request.mapped:
                image.info[ATTENTION_MAPS] = {span: attended(span[1] - span[0]) for span in request.mapped}
            images.append(image)
        return images


def attended(first: float) -> np.ndarray:
    return np.array([[first, 1], [1, 1]], np.float32)


def item(text: str, before: Callable[[], dict[str, np.ndarray]] = dict) -> Item:
    cup = Object(label="cup", phrase="a red cup", likelihood=2.0, boxes=[], mask=encode(mask(0, 1)))
    record = Record(id="1", text=text, file_name="1.png", objects=[cup] if "cup" in text else [])
    return Item(record, Image.new("RGB", (4, 4)), before)


def test_refining_keeps_maps_before_and_after_and_says_their_shares() -> None:
    """The mask is the left half: of 9, 1, 1, 1 it has 10 of 12, of 3, 1, 1, 1 it has 4 of 6, of even maps one half."""
    painter = Painter()
    coarse = {"0:9 a red cup": attended(1), "2:5 red": attended(1), "9:9 gone": attended(1)}
    stage = Refine(painter, MODULATION, "final", ["on"])  # type: ignore[arg-type]
    assert stage.sections == ("generator", "refine", "modulation", "parser")
    made, unplanned = stage([item(PROMPT, lambda: coarse), item("a dog")])
    assert isinstance(made, Outcome) and isinstance(unplanned, Outcome)
    (found,) = made.changes["maps"]
    (red,) = found.attributes
    told = [(one.words, one.place, one.before, one.after) for one in (found, red)]
    assert told == [("a red cup", (0, 9), 0.5, pytest.approx(10 / 12)), ("red", (2, 5), 0.5, pytest.approx(4 / 6))]
    assert found.area == 0.5
    names = ["0:9 a red cup", "2:5 red", "14:23 a Red dog", "16:19 Red", "27:32 a mat", "24:26 on"]
    assert list(made.maps) == [f"before {name}" for name in names[:2]] + [f"after {name}" for name in names]
    assert np.array_equal(made.maps["after 2:5 red"], attended(3))
    assert made.pictures.keys() == {"strip", "maps"}
    plain = maps.picture(PROMPT, [("refined", Image.new("RGB", (4, 4)), {"2:5 red": attended(3)})])
    drawn = made.pictures["maps"]()
    assert drawn.height > plain.height + 192 and drawn.width == 7 * plain.width // 2
    assert not unplanned.maps and "maps" not in unplanned.changes and unplanned.pictures.keys() == {"strip"}
    assert len(painter.requests) == 1


def test_without_maps_nothing_is_asked_for() -> None:
    painter = Painter()
    (made,) = Refine(painter, MODULATION, "final")([item(PROMPT, lambda: pytest.fail("read"))])  # type: ignore[arg-type]
    assert isinstance(made, Outcome) and not made.maps and "maps" not in made.changes
    assert painter.requests[0].mapped == ()


def test_maps_before_that_are_missing_are_told_once_and_damaged_ones_fail(caplog: pytest.LogCaptureFixture) -> None:
    def damaged() -> dict[str, np.ndarray]:
        raise RecordError("unreadable_maps", "torn")

    stage = Refine(Painter(), MODULATION, "final", [])  # type: ignore[arg-type]
    first, second, third = stage([item(PROMPT), item(PROMPT), item(PROMPT, damaged)])
    assert [record.message for record in caplog.records] == [
        "record 1: no attention maps lie beside its coarse image, so that there are none of before; 'realign generate "
        "--maps' keeps them. This is said of the first record only"
    ]
    for made in (first, second):
        assert isinstance(made, Outcome) and all(name.startswith("after ") for name in made.maps)
        dumped = made.changes["maps"][0].model_dump(exclude_unset=True)
        assert "before" not in dumped and "before" not in dumped["attributes"][0]
    assert isinstance(third, RecordError) and third.kind == "unreadable_maps"


def test_means_are_over_images_and_before_is_said_where_all_know_it() -> None:
    word = WordMap(words="red", place=(0, 3), before=0.1, after=0.2)
    phrase = PhraseMap(words="red cup", place=(0, 7), before=0.2, after=0.4, area=0.1, attributes=[word])
    bare = phrase.model_copy(update={"after": 0.8, "attributes": [], "area": 0.3})
    records = [Record(id="1", text="t", maps=[phrase, bare]), Record(id="2", text="t", maps=[bare])]
    found = map_shares([*records, Record(id="3", text="t"), Record(id="4", text="t", maps=[])])
    assert found == {
        "area": pytest.approx(0.25),
        "phrases": {"n": 2, "before": pytest.approx(0.2), "after": pytest.approx(0.7)},
        "attributes": {"n": 1, "before": pytest.approx(0.1), "after": pytest.approx(0.2)},
    }
    assert map_line("in", found) == (
        "attention inside masks (in): phrases 0.200 before, 0.700 after (n 2), attributes 0.100 before, 0.200 after "
        "(n 1); the masks are 0.250 of the image"
    )
    unknown = phrase.model_copy(update={"before": None})
    only_after = map_shares([records[0], Record(id="5", text="t", maps=[unknown])])
    assert only_after and "before" not in only_after["phrases"] and "phrases 0.5" in map_line("in", only_after)
    assert map_shares([Record(id="3", text="t")]) is None
