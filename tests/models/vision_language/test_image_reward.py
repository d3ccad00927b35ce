"""ImageReward at a small random configuration, under the names that the published checkpoint gives its weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import BertTokenizerFast

from realign_cli.errors import RealignError
from realign_cli.models.vision_language.image_reward import ImageReward

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle"]
CPU = SimpleNamespace(device="cpu")


def published(width: int = 64, text: int = 128, layers: int = 2, inner: int = 96) -> dict[str, Tensor]:
    """Random weights under the published names: a ViT of 32x32 pixels in patches of 8, a BERT, the perceptron."""
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, width),
        "blip.visual_encoder.pos_embed": (1, 17, width),
        "blip.visual_encoder.patch_embed.proj.weight": (width, 3, 8, 8),
        "blip.visual_encoder.patch_embed.proj.bias": (width,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (len(WORDS), text),
        "blip.text_encoder.embeddings.position_embeddings.weight": (40, text),
        "blip.vision_proj.weight": (8, width),  # of the pre-training, not used
    }

    def linear(name: str, out: int, given: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, given), (out,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (size,), (size,)

    for i in range(layers):
        block = f"blip.visual_encoder.blocks.{i}"
        norm(f"{block}.norm1", width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        linear(f"{block}.mlp.fc1", inner, width)
        linear(f"{block}.mlp.fc2", width, inner)
        layer = f"blip.text_encoder.encoder.layer.{i}"
        for kind, seen in (("attention", text), ("crossattention", width)):
            linear(f"{layer}.{kind}.self.query", text, text)
            linear(f"{layer}.{kind}.self.key", text, seen)
            linear(f"{layer}.{kind}.self.value", text, seen)
            linear(f"{layer}.{kind}.output.dense", text, text)
            norm(f"{layer}.{kind}.output.LayerNorm", text)
        linear(f"{layer}.intermediate.dense", inner, text)
        linear(f"{layer}.output.dense", text, inner)
        norm(f"{layer}.output.LayerNorm", text)
    norm("blip.visual_encoder.norm", width)
    norm("blip.text_encoder.embeddings.LayerNorm", text)
    for index, (out, given) in zip(
        (0, 2, 4, 6, 7), ((1024, text), (128, 1024), (64, 128), (16, 64), (1, 16)), strict=True
    ):
        linear(f"mlp.layers.{index}", out, given)
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.save(published(), tmp_path / "ImageReward.pt")
    return tmp_path


def test_one_differentiable_reward_per_image(checkpoint: Path):
    reward = ImageReward(CPU, checkpoint=str(checkpoint), tokenizer=str(checkpoint))
    pixels = torch.rand(3, 3, 48, 48, requires_grad=True)
    prompts = ["a red circle", "a blue circle", "a red"]
    values = reward(pixels, prompts, 0)
    assert values.shape == (3,) and reward.margin == 2.0
    (gradient,) = torch.autograd.grad(values.sum(), pixels)
    assert gradient.isfinite().all() and (gradient.abs().amax((1, 2, 3)) > 0).all()
    one_by_one = torch.cat([reward(pixels[i : i + 1], [prompts[i]], 0) for i in range(3)])
    torch.testing.assert_close(values, one_by_one, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(reward(pixels, prompts[::-1], 0), values)


@pytest.mark.parametrize("harm", ["missing", "other shape"])
def test_another_checkpoint_is_refused(checkpoint: Path, harm: str):
    state = published()
    if harm == "missing":
        del state["blip.text_encoder.encoder.layer.1.crossattention.self.key.weight"]
    else:
        state["mlp.layers.7.weight"] = torch.zeros(1, 15)
    torch.save(state, checkpoint / "ImageReward.pt")
    with pytest.raises(RealignError, match="not an ImageReward checkpoint"):
        ImageReward(CPU, checkpoint=str(checkpoint), tokenizer=str(checkpoint))
