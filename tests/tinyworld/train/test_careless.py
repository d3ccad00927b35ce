"""Careless prompts: what is said of a scene stays sayable in the tokens of the rewriter, and means the scene."""

from __future__ import annotations

from itertools import islice

import numpy as np

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train import rewriter
from realign_cli.tinyworld.train.careless import careless


def test_careless_prompts_and_what_they_mean() -> None:
    rng, words = np.random.default_rng(1), rewriter.tokenizer()
    drawn = list(islice(scenes.scenes(3), 400))
    pairs = [careless(scene, rng) for scene in drawn]
    for scene, (text, plain) in zip(drawn, pairs, strict=True):
        ids = words(f"{text} Rephrase: {plain}").input_ids
        assert words.unk_token_id not in ids and len(ids) < words.model_max_length, text
        assert words.decode(words(plain).input_ids) == plain
        bare = {f"{scenes.article(thing.shape)} {thing.shape}" for thing in scene.things}
        assert plain == scene.caption or sum(one in plain for one in bare) == 1
    assert np.mean([text != plain for text, plain in pairs]) > 0.9 and len({text for text, _ in pairs}) > 370


def test_only_the_answer_is_learnt_from() -> None:
    words = rewriter.tokenizer()
    rows = rewriter.batch([("ring red", "a red ring"), ("circle", "a circle")], words)
    learnt = [[word for word in row if word >= 0] for row in rows["labels"].tolist()]
    assert [words.decode(row, skip_special_tokens=True) for row in learnt] == ["a red ring", "a circle"]
    assert [row[-1] for row in learnt] == [words.eos_token_id] * 2
    said = rows["input_ids"][0, : int(rows["attention_mask"][0].sum())]
    assert words.decode(said, skip_special_tokens=True) == "ring red rephrase : a red ring"
