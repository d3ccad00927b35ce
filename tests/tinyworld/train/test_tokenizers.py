from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.tokenizers import clip_tokenizer, word_tokenizer


@pytest.fixture(params=["built", "reloaded"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> CLIPTokenizer:
    built = clip_tokenizer(scenes.words(), 24)
    if request.param == "built":
        return built
    built.save_pretrained(tmp_path)
    return CLIPTokenizer.from_pretrained(tmp_path)


def test_every_word_is_one_token_of_its_own(tokenizer: CLIPTokenizer):
    ids = [tokenizer(word).input_ids for word in scenes.words()]
    assert all(len(row) == 3 for row in ids)
    assert len({row[1] for row in ids} | set(tokenizer.all_special_ids)) == len(scenes.words()) + 3 == len(tokenizer)


def test_captions_have_one_token_per_word(tokenizer: CLIPTokenizer):
    for scene in islice(scenes.scenes(1), 200):
        ids = tokenizer(scene.caption).input_ids
        assert len(ids) == len(scene.caption.replace(",", " ,").split()) + 2
        assert tokenizer.unk_token_id not in ids


def test_frame_padding_and_case(tokenizer: CLIPTokenizer):
    ids = tokenizer("A Red  circle", padding="max_length").input_ids
    assert len(ids) == 24
    assert ids[0] == tokenizer.bos_token_id
    assert set(ids[4:]) == {tokenizer.eos_token_id}
    assert ids == tokenizer("a red circle", padding="max_length").input_ids


def test_unknown_words_are_unknown(tokenizer: CLIPTokenizer):
    known, unknown = tokenizer("a ring").input_ids, tokenizer("a book").input_ids
    assert unknown[:2] == known[:2]
    assert set(unknown[2:-1]) == {tokenizer.unk_token_id}
    assert known[2] not in tokenizer("rings").input_ids


def test_the_word_tokenizer_knows_its_words_and_no_others_after_saving(tmp_path: Path):
    word_tokenizer(examples.caption_words()).save_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    text = "two red circles, an orange ring and a blue thing"
    ids = words(text).input_ids
    assert words.unk_token_id not in ids
    assert words.decode(ids, skip_special_tokens=True) == text
    assert words("A Red Circle").input_ids == words("a red circle").input_ids
    assert words("a zebra").input_ids[2] == words.unk_token_id
    assert max(ids) == ids[-1] == words.eos_token_id  # CLIP pools a text at its highest id
