"""Checkpoints in one file, made of the random pipelines by diffusers' conversion the other way round."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from realign_cli.errors import UsageError
from realign_cli.models.diffusion import single_file
from realign_cli.models.diffusion.architectures import ARCHITECTURES, tokenizers
from realign_cli.models.diffusion.stable_diffusion import StableDiffusion
from realign_cli.models.diffusion.stable_diffusion_xl import StableDiffusionXL
from realign_cli.roles import Request

WITHOUT = ({"safety_checker": None}, {"add_watermarker": False})
REQUESTS = [Request("a red circle and a blue ring", 1)]
UNET = (
    (r"^time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"^add_embedding\.linear_(\d)", lambda m: f"label_emb.0.{2 * int(m[1]) - 2}"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    # of random pipelines: one layer a block, and its sampler
    (r"^down_blocks\.(\d)\.resnets\.0", lambda m: f"input_blocks.{2 * int(m[1]) + 1}.0"),
    (r"^down_blocks\.(\d)\.attentions\.0", lambda m: f"input_blocks.{2 * int(m[1]) + 1}.1"),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{2 * int(m[1]) + 2}.0.op"),
    (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.0"),
    (r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.1"),
    (r"^up_blocks\.(\d)\.upsamplers\.0\.conv", lambda m: f"output_blocks.{2 * int(m[1]) + 1}.2.conv"),
    (r"\.norm1\.(?=\w+$)(?<!blocks\.\d\.norm1\.)", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.(?=\w+$)(?<!blocks\.\d\.norm2\.)", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
VAE = (
    (r"\.down_blocks\.(\d)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.mid_block\.resnets\.(\d)", lambda m: f".mid.block_{int(m[1]) + 1}"),
    (r"\.mid_block\.attentions\.0\.group_norm", ".mid.attn_1.norm"),
    (r"\.mid_block\.attentions\.0\.to_([qkv])", r".mid.attn_1.\1"),
    (r"\.mid_block\.attentions\.0\.to_out\.0", ".mid.attn_1.proj_out"),
    (r"\.conv_norm_out", ".norm_out"),
    (r"\.conv_shortcut", ".nin_shortcut"),
)
OPEN_CLIP = (
    (r"^text_model\.", ""),
    (r"^embeddings\.token_embedding", "token_embedding"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm(\d)", r".ln_\1"),
    (r"\.mlp\.fc1", ".mlp.c_fc"),
    (r"\.mlp\.fc2", ".mlp.c_proj"),
    (r"\.self_attn\.", ".attn."),
    (r"^final_layer_norm", "ln_final"),
    (r"^text_projection\.weight", "text_projection"),
)


def renamed(state: dict[str, Tensor], rules: tuple) -> dict[str, Tensor]:
    found = {}
    for key, value in state.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        found[key] = value
    return found


def open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = renamed(state, OPEN_CLIP)
    if "text_projection" in found:  # 2.x has none that is read
        found["text_projection"] = found["text_projection"].T
    for key in [key for key in found if ".attn.q_proj." in key]:
        joined = torch.cat([found.pop(key.replace(".q_proj.", f".{one}_proj.")) for one in "qkv"])
        found[key.replace(".q_proj.", ".in_proj_")] = joined
    return found


def original(pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline, kind: str = "sd") -> dict[str, Tensor]:
    """The weights of a pipeline as their first publishers name them."""
    levels = len(pipeline.vae.config.block_out_channels) - 1
    up = (r"\.up_blocks\.(\d)\.resnets\.", lambda m: f".up.{levels - int(m[1])}.block.")
    above = (r"\.up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f".up.{levels - int(m[1])}.upsample.")
    vae = renamed(pipeline.vae.state_dict(), (up, above, *VAE))
    vae = {k: v[..., None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", k) else v for k, v in vae.items()}
    clip = {f"text_model.{key}": value for key, value in pipeline.text_encoder.state_dict().items()}
    if isinstance(pipeline, StableDiffusionXLPipeline):
        second = open_clip(pipeline.text_encoder_2.state_dict())
        texts = {"conditioner.embedders.0.transformer.": clip, "conditioner.embedders.1.model.": second}
    elif kind == "sd2":
        texts = {"cond_stage_model.model.": open_clip(clip)}
    else:
        texts = {"cond_stage_model.transformer.": clip}
    unet = renamed(pipeline.unet.state_dict(), UNET)
    parts = {"model.diffusion_model.": unet, "first_stage_model.": vae, **texts}
    return {prefix + key: value.contiguous() for prefix, part in parts.items() for key, value in part.items()}


KINDS = {
    "sd": (StableDiffusion, StableDiffusionPipeline, "sd_folder"),
    "sd2": (StableDiffusion, StableDiffusionPipeline, "sd_folder"),
    "xl": (StableDiffusionXL, StableDiffusionXLPipeline, "xl_folder"),
}


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """The kind, its folder, and the file with the same weights."""
    _, pipeline, place = KINDS[request.param]
    folder = request.getfixturevalue(place)
    file = tmp_path_factory.mktemp("models") / "mine.safetensors"
    save_file(original(pipeline.from_pretrained(folder, **WITHOUT[request.param == "xl"]), request.param), file)
    return request.param, folder, file


def opened(kind: str, place: Path, **options: str) -> StableDiffusion:
    made = KINDS[kind][0]
    return made(str(place), device="cpu", steps=2, guidance=3.0, size=64, model_batch_size=1, **options)


def test_a_file_draws_what_its_folder_draws(checkpoint: tuple[str, Path, Path]) -> None:
    kind, folder, file = checkpoint
    ours, theirs = opened(kind, file, config=str(folder)), opened(kind, folder)
    for name, part in theirs.pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            own, other = ours.pipeline.components[name].state_dict(), part.state_dict()
            assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in other)
    (a,), (b,) = ours.generate(REQUESTS), theirs.generate(REQUESTS)
    assert np.array_equal(np.asarray(a), np.asarray(b))


def test_the_packaged_configuration_is_taken_where_none_is_named(
    sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shape of the random pipeline in place of the published one, and CLIP's own words."""
    pipeline = StableDiffusionPipeline.from_pretrained(sd_folder, safety_checker=None)
    text = CLIPTextConfig(
        **{**pipeline.text_encoder.config.to_dict(), "vocab_size": 49408, "max_position_embeddings": 77}
    )
    pipeline.text_encoder = CLIPTextModel(text)
    save_file(original(pipeline), tmp_path / "mine.safetensors")
    small = {name: dict(getattr(pipeline, name).config) for name in ("unet", "vae", "scheduler")}
    monkeypatch.setitem(ARCHITECTURES, "sd1", {**small, "text_encoder": text.to_dict()})
    generator = opened("sd", tmp_path / "mine.safetensors")
    assert len(generator.pipeline.tokenizer) == 49408 and generator.pipeline.unet.config.sample_size == 16
    assert generator.generate(REQUESTS)[0].size == (64, 64)
    with pytest.raises(UsageError, match="for another kind of generator; use --preset sd15"):
        opened("xl", tmp_path / "mine.safetensors")


def test_a_file_that_lacks_weights_or_has_others_is_refused(checkpoint: tuple[str, Path, Path], tmp_path: Path) -> None:
    kind, folder, file = checkpoint
    weights = single_file.safe_open(file, "pt")
    state = {key: weights.get_tensor(key) for key in weights.keys() if "input_blocks.1.0" not in key}  # noqa: SIM118
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(UsageError, match=r"less\.safetensors: not the weights of .* \(some of them are missing\)"):
        opened(kind, tmp_path / "less.safetensors", config=str(folder))
    if kind != "sd2":  # which would want to know what it predicts
        with pytest.raises(UsageError, match=r"not the weights of sd"):
            opened(kind, file)  # the published shape, which is another


U, TEXT, DECODER = single_file._INPUT, next(iter(single_file._TEXT)), single_file._DECODER
V2, XL = list(single_file._TEXT)[1:]
WHOLE = {U: (8, 4, 3, 3), DECODER: (1,), TEXT: (1,)}


@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [
        ({**WHOLE, U: (8, 9, 3, 3)}, "for inpainting, which this program does not do"),
        ({**WHOLE, U: (8, 5, 3, 3)}, "its U-Net reads 5 channels"),
        ({"lora_unet_down.lora_up.weight": (1,)}, r"a LoRA: give it as generator\.lora"),
        ({"double_blocks.0.weight": (1,)}, "no U-Net of Stable Diffusion is in it"),
        ({U: (8, 4, 3, 3), TEXT: (1,)}, "no autoencoder is in it"),
        ({U: (8, 4, 3, 3), DECODER: (1,)}, "no text encoder is in it"),
        (
            {U: (8, 4, 3, 3), DECODER: (1,), V2: (1,)},
            r"generator\.config=sd2 if it is v, .* or sd2-base if it is noise",
        ),
        ({U: (8, 4, 3, 3), DECODER: (1,), XL: (1,)}, "for another kind of generator; use --preset sdxl"),
        ({U: (8, 4, 3, 3), DECODER: (1,), XL: (1,), "v_pred": (0,)}, "a Stable Diffusion XL that predicts v; name"),
        ({U: (8, 4, 3, 3), DECODER: (1,), single_file._REFINER: (1,)}, "the refiner of Stable Diffusion XL"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(
    shapes: dict[str, tuple[int, ...]], complaint: str, tmp_path: Path
) -> None:
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=rf"a\.safetensors: .*{complaint}") as caught:
        opened("sd", tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_pickles_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"")
    (tmp_path / "a.safetensors").write_bytes(b"{}")
    for name, complaint in [
        ("a.ckpt", "a pickle may run code"),
        ("a.safetensors", "not a .safetensors file"),
        ("none.safetensors", "not a .safetensors file"),
    ]:
        with pytest.raises(UsageError, match=complaint):
            opened("sd", tmp_path / name)


def test_a_folder_for_inpainting_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(sd_folder, safety_checker=None)
    pipeline.unet = UNet2DConditionModel.from_config(pipeline.unet.config, in_channels=9)
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="its U-Net reads 9 channels and draws 4, as for inpainting"):
        opened("sd", tmp_path)


@pytest.mark.parametrize(
    ("name", "unet", "texts"),
    [
        ("sd1", 859_520_964, [123_060_480]),
        ("sd2", 865_910_724, [340_387_840]),
        ("sdxl", 2_567_463_684, [123_060_480, 694_659_840]),
    ],
)
def test_the_packaged_shapes_have_as_many_weights_as_the_published_ones(name: str, unet: int, texts: list[int]) -> None:
    def count(model: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in model.parameters())

    shape = ARCHITECTURES[name]
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    with init_empty_weights():
        assert count(UNet2DConditionModel.from_config(shape["unet"])) == unet
        assert count(AutoencoderKL.from_config(shape["vae"])) == 83_653_863
        found = [count(kind(CLIPTextConfig(**shape[part]))) for part, kind in kinds.items() if part in shape]
    assert found == texts


def test_the_tokenizers_are_clip_s(tmp_path: Path) -> None:
    theirs, ours = SimpleTokenizer(), tokenizers("sdxl")
    for text in ("a red circle and a blue ring", "An astronaut's hat, naïve 3D!! 你好 512x512", " two   spaces\t"):
        ids = ours["tokenizer"](text).input_ids
        assert ids == theirs(text)[0, : len(ids)].tolist()
    padded = [one("a", padding="max_length").input_ids for one in ours.values()]
    assert [len(ids) for ids in padded] == [77, 77] and [ids[-1] for ids in padded] == [49407, 0]
