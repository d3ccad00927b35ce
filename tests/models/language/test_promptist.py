"""The rewriter of Promptist, on models of its architecture with random or forced weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from realign_cli.errors import RealignError
from realign_cli.models.language.promptist import Promptist
from realign_cli.tinyworld.train import rewriter

PROMPTS = ["red square plus circle blue", "a pink ring"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with random weights."""
    torch.manual_seed(3)
    made = tmp_path_factory.mktemp("rewriter")
    rewriter.build().save_pretrained(made)
    rewriter.tokenizer().save_pretrained(made)
    return made


def greedy(folder: Path, prompt: str, count: int) -> str:
    """What follows the prompt, word by word, without the library's generation."""
    model, words = GPT2LMHeadModel.from_pretrained(folder), rewriter.tokenizer()
    ids = words(f"{prompt} Rephrase:", return_tensors="pt").input_ids
    length = ids.shape[1]
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        if ids[0, -1] == words.eos_token_id:
            break
    return words.decode(ids[0, length:], skip_special_tokens=True)


def test_what_follows_the_prompt_is_cut_by_tokens(folder: Path) -> None:
    model = Promptist(folder, device="cpu", num_beams=1, max_new_tokens=6)
    found = model.rewrite(PROMPTS)
    assert found == [greedy(folder, prompt, 6) for prompt in PROMPTS] and all(found)
    assert model.rewrite([f"  {prompt}  " for prompt in reversed(PROMPTS)]) == found[::-1]  # nor does the batch matter


def test_beams_and_their_penalty(folder: Path) -> None:
    """The same each time; a penalty below zero favours texts that end early."""
    several = Promptist(folder, device="cpu", num_beams=4, max_new_tokens=12)
    assert several.rewrite(PROMPTS) == several.rewrite(PROMPTS)
    penalties = [Promptist(folder, device="cpu", num_beams=8, max_new_tokens=12, length_penalty=p) for p in (-9.0, 9.0)]
    short, long = ([len(text.split()) for text in model.rewrite(PROMPTS)] for model in penalties)
    assert all(one <= other for one, other in zip(short, long, strict=True)) and sum(short) < sum(long)


def test_no_rewriting_of_use_is_empty(folder: Path, tmp_path: Path) -> None:
    assert Promptist(folder, device="cpu", max_new_tokens=24).rewrite(["red " * 50]) == [""]
    for word in ("rephrase", "<end>"):  # a model that says nothing else
        model, words = rewriter.build(), rewriter.tokenizer()
        with torch.no_grad():
            model.transformer.ln_f.weight.zero_()
            model.transformer.ln_f.bias.copy_(9 * model.transformer.wte.weight[words.convert_tokens_to_ids(word)])
        model.save_pretrained(tmp_path / word.strip("<>"))
        words.save_pretrained(tmp_path / word.strip("<>"))
        assert Promptist(tmp_path / word.strip("<>"), device="cpu", max_new_tokens=4).rewrite(PROMPTS) == ["", ""]


def test_a_tokenizer_of_its_own(folder: Path, tmp_path: Path) -> None:
    rewriter.build().save_pretrained(tmp_path)
    with pytest.raises(RealignError, match="cannot load"):
        Promptist(tmp_path / "nowhere", device="cpu")
    made = Promptist(tmp_path, device="cpu", tokenizer=str(folder), num_beams=1, max_new_tokens=2)
    assert len(made.rewrite(PROMPTS)) == 2
