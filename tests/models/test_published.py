"""The published architectures at small random configurations, through the adapters that load the published weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from segment_anything import sam_model_registry
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipImageProcessor,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
)

from realign_cli.errors import RealignError, UsageError
from realign_cli.models.pixels import MEAN
from realign_cli.models.vision.grounded_sam import SamMasks, build_sam
from realign_cli.models.vision.transformers_sam import TransformersSam
from realign_cli.models.vision_language import blip2
from realign_cli.models.vision_language.open_clip import OpenClipMetric
from realign_cli.tinyworld.train.publish import WEIGHTS

BOXES = [(7, 9, 29, 31), (36, 33, 54, 51)]


def noise(*size: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def captioner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BLIP-2 as published: 32 queries, OPT with its ids for start and end, a processor with numbers of its own."""
    torch.manual_seed(0)
    tokenizer = blip2._load_tokenizer(WEIGHTS / "captioner", "main")
    own = json.loads((WEIGHTS / "captioner" / "config.json").read_text())
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {key: own["text_config"][key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size")}
    config = Blip2Config(
        # The library's own range for fresh weights is nothing in half precision.
        vision_config={**small, "intermediate_size": 48, "image_size": 28, "patch_size": 7, "initializer_range": 0.2},
        qformer_config={
            **small,
            "intermediate_size": 48,
            "encoder_hidden_size": 32,
            "cross_attention_frequency": 2,
            "vocab_size": special["vocab_size"],
        },
        text_config={**small, **special, "model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32},
        num_query_tokens=32,
        image_token_index=own["image_token_index"],
    )
    folder = tmp_path_factory.mktemp("blip2")
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessor(
        size={"height": 28, "width": 28}, image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 0.5, 2.0]
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_captioner_in_each_precision(captioner_folder: Path, dtype: torch.dtype) -> None:
    """Half precision, which is for GPUs, gives the same here: captions, likelihood, and a gradient to the pixels."""
    captioner = blip2.Blip2Captioner(captioner_folder, device="cpu", max_new_tokens=4, num_beams=2)
    exact = captioner.log_likelihood(torch.full((1, 3, 28, 28), 0.25), [["a red circle"]])[0].item()
    captioner.model = blip2._load(Blip2ForConditionalGeneration, captioner_folder, "cpu", "main", dtype)
    images = [noise(28, 28), noise(50, 30, seed=1), noise(9, 40, seed=2)]
    together = captioner.caption(images)
    assert len(together) == 3 and together == captioner.caption(images)
    if dtype is torch.float32:
        assert together == [captioner.caption([image])[0] for image in images]
    assert [len(group) for group in captioner.sample(torch.rand(2, 3, 40, 28), 3, seed=1)] == [3, 3]
    pixels = torch.full((2, 3, 28, 28), 0.25, requires_grad=True)
    total, length = captioner.log_likelihood(pixels, [["a red circle"], ["a blue square and a green ring"]])
    assert total.dtype == torch.float32 and total[0].item() == pytest.approx(exact, rel=0.02)
    assert length.tolist() == [[4], [8]]  # the words and the end
    (gradient,) = torch.autograd.grad(total.sum(), pixels)
    assert gradient.dtype == torch.float32 and gradient.isfinite().all()
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_the_prompt_is_32_image_tokens_and_the_start(captioner_folder: Path) -> None:
    captioner = blip2.Blip2Captioner(captioner_folder, device="cpu")
    config = captioner.model.config
    ids = blip2.caption_targets(captioner.tokenizer, config, ["a red circle"])["input_ids"][0].tolist()
    assert ids[:33] == [config.image_token_index] * 32 + [config.text_config.bos_token_id]
    shapes = blip2.images_to_input([noise(28, 28)], 28)
    outputs = captioner.model.generate(shapes, max_new_tokens=1, do_sample=False)
    assert outputs[0, :33].tolist() == ids[:33]  # the library's own prompt


def test_size_and_normalisation_are_the_checkpoints(captioner_folder: Path) -> None:
    captioner = blip2.Blip2Captioner(captioner_folder, device="cpu")
    image = noise(28, 28)
    theirs = BlipImageProcessor.from_pretrained(captioner_folder)(image, return_tensors="pt").pixel_values
    assert torch.allclose(blip2.images_to_input([image], **captioner._preprocessing), theirs, atol=1e-5)
    packaged = blip2.Blip2Captioner(WEIGHTS / "captioner", device="cpu")
    assert packaged._preprocessing["mean"] == MEAN


@pytest.mark.parametrize("configured", [False, True])
def test_the_other_activation_is_refused(tmp_path: Path, configured: bool) -> None:
    for file in (WEIGHTS / "clip").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = configured
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    kinds = ("GELU", "QuickGELU")
    metric = OpenClipMetric(tmp_path, device="cpu", column="clip", quick_gelu=configured)
    assert f"; {kinds[configured]};" in metric.note
    plain = OpenClipMetric(WEIGHTS / "clip", device="cpu", column="clip")
    asked = [noise(64, 64)], ["a red circle"]
    assert (metric.measure(*asked) == plain.measure(*asked)) is not configured  # the values do differ
    complaint = f"builds {kinds[configured]}, but by clip.quick_gelu the weights are of {kinds[not configured]}"
    with pytest.raises(RealignError, match=complaint):
        OpenClipMetric(tmp_path, device="cpu", column="clip", quick_gelu=not configured)


@pytest.fixture
def published_sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packaged SAM as the one `.pth` of a published one, whose sizes the library then says."""
    sizes = json.loads((WEIGHTS / "masks" / "config.json").read_text())
    monkeypatch.setitem(sam_model_registry, "vit_b", lambda: build_sam(**sizes))
    state = {key: value.float() for key, value in load_file(WEIGHTS / "masks" / "model.safetensors").items()}
    torch.save(state, tmp_path / "sam_vit_b.pth")
    return tmp_path


def test_a_published_sam(published_sam: Path) -> None:
    image = noise(80, 64)
    (ours,) = SamMasks(WEIGHTS / "masks", device="cpu").masks([image], [BOXES])
    (theirs,) = SamMasks(published_sam, device="cpu", model="vit_b").masks([image], [BOXES])
    assert ours.any() and np.array_equal(ours, theirs)
    with pytest.raises(UsageError, match="choose vit_h, vit_l or vit_b"):
        SamMasks(published_sam, device="cpu", model="vit_x")
    with pytest.raises(UsageError, match=r"sam_vit_b\.pth: not the weights of SAM vit_l"):
        SamMasks(published_sam, device="cpu", model="vit_l")
    torch.save(Path("code"), published_sam / "sam_vit_b.pth")
    with pytest.raises(UsageError, match="not the weights"):
        SamMasks(published_sam, device="cpu", model="vit_b")
    (published_sam / "sam_vit_b.pth").unlink()
    with pytest.raises(UsageError, match=r"0 \.pth files"):
        SamMasks(published_sam, device="cpu", model="vit_b")


# segment_anything's name of a weight -> that of transformers.
RENAMED = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"(vision_encoder.*\.|transformer.*\.)norm(\d)\.", r"\1layer_norm\2."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"(hypernetworks_mlps\.\d|prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(hypernetworks_mlps\.\d|prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"(hypernetworks_mlps\.\d|prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
)


def test_transformers_sam_masks_as_segment_anything_does(tmp_path: Path) -> None:
    sizes = json.loads((WEIGHTS / "masks" / "config.json").read_text())
    config = SamConfig(
        vision_config={
            "hidden_size": sizes["width"],
            "output_channels": sizes["prompt_width"],
            "num_hidden_layers": sizes["depth"],
            "num_attention_heads": sizes["heads"],
            "image_size": sizes["image_size"],
            "patch_size": sizes["patch_size"],
            "window_size": sizes["window_size"],
            "global_attn_indexes": sizes["global_attention"],
            "mlp_dim": 4 * sizes["width"],
            "num_pos_feats": sizes["prompt_width"] // 2,
        },
        prompt_encoder_config={
            "hidden_size": sizes["prompt_width"],
            "image_size": sizes["image_size"],
            "patch_size": sizes["patch_size"],
            "image_embedding_size": sizes["image_size"] // sizes["patch_size"],
        },
        mask_decoder_config={
            "hidden_size": sizes["prompt_width"],
            "mlp_dim": sizes["decoder_mlp"],
            "num_attention_heads": sizes["decoder_heads"],
            "iou_head_hidden_dim": sizes["prompt_width"],
        },
    )
    model = SamModel(config)
    state = {}
    for key, value in load_file(WEIGHTS / "masks" / "model.safetensors").items():
        for pattern, replacement in RENAMED:
            key = re.sub(pattern, replacement, key)
        state[key] = value.float()
    state["prompt_encoder.shared_embedding.positional_embedding"] = state["shared_image_embedding.positional_embedding"]
    model.load_state_dict(state)
    model.save_pretrained(tmp_path)
    edge = sizes["image_size"]
    look = SamImageProcessor(size={"longest_edge": edge}, pad_size={"height": edge, "width": edge})
    SamProcessor(look).save_pretrained(tmp_path)

    images = [noise(64, 64), noise(160, 128, seed=1), noise(30, 20, seed=2)]
    boxes = [BOXES, [(17, 18, 73, 62)], []]
    ours = SamMasks(WEIGHTS / "masks", device="cpu").masks(images, boxes)
    adapter = TransformersSam(tmp_path, device="cpu")
    theirs = adapter.masks(images, boxes)
    assert [mask.shape for mask in theirs] == [(2, 64, 64), (1, 128, 160), (0, 20, 30)]
    assert all(mask.dtype == np.bool_ for mask in theirs)
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        assert a.any() and (a == b).mean() > 0.995  # they resize an image with different rounding
    assert np.array_equal(adapter.masks(images[1:2], boxes[1:2])[0], theirs[1])


def test_a_missing_transformers_sam_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RealignError, match=r"cannot load .*--preset tiny"):
        TransformersSam(tmp_path, device="cpu")
