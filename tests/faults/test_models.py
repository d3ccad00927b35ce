"""A model that is damaged or does not fit ends in one line; one that gives no numbers fails the records it draws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from realign_cli import presets
from realign_cli.data.records import METADATA
from realign_cli.errors import UsageError
from realign_cli.models.diffusion.lora import LORA, load_lora
from realign_cli.models.diffusion.stable_diffusion import StableDiffusion
from realign_cli.registry import Models
from realign_cli.tinyworld.train.publish import WEIGHTS
from realign_cli.training import checkpoint

if TYPE_CHECKING:
    from faults.warm import Warm

pytestmark = pytest.mark.fault

GENERATOR = WEIGHTS / "generator"
LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
WIDTH = 128  # of that layer
TAGS = [{"label": "circle", "confidence": 0.9}]


def lora(
    down: tuple[int, ...] = (4, WIDTH), up: tuple[int, ...] = (WIDTH, 4), name: str = LAYER
) -> dict[str, torch.Tensor]:
    return {f"{name}.lora.down.weight": torch.ones(down), f"{name}.lora.up.weight": torch.ones(up)}


LORAS = {
    "of a wider network": save(lora((4, 320), (320, 4))),
    "of another layer": save(lora(name="unet.nowhere.to_q")),
    "in part of another network": save(lora() | lora(name="unet.nowhere.to_q")),
    "of a text encoder that is another": save(lora(name="text_encoder.text_model.encoder.layers.0.self_attn.q_proj")),
    "half of one": save({f"{LAYER}.lora.down.weight": torch.ones(4, WIDTH)}),
    "of foreign keys": save({"diffusion_model.x.weight": torch.ones(2)}),
    "empty": save({}),
    "cut short": save(lora())[:-1],
    "a pointer to a file elsewhere": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "no bytes": b"",
}


@pytest.mark.parametrize("kind", LORAS)
def test_a_lora_that_does_not_fit_is_one_line(warm: Warm, tmp_path: Path, kind: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / LORA).write_bytes(LORAS[kind])
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    ended = warm("generate", "--prompts", "prompts.txt", "--model", "model", "--out", "out", "-q", cwd=tmp_path)
    assert ended.code == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert f"model/{LORA}: no LoRA of this generator (" in ended.stderr


def listing(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text("[]") and None


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"{file} is a list": listing(file) for file in ("model_index.json", "unet/config.json", "vae/config.json")},
    "no tokenizer": lambda folder: shutil.rmtree(folder / "tokenizer"),
    "weights cut short": lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(
        b"0" * 99
    ),
    "no unet": lambda folder: shutil.rmtree(folder / "unet"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_pipeline_is_one_line(warm: Warm, tmp_path: Path, kind: str) -> None:
    shutil.copytree(GENERATOR, tmp_path / "model")
    DAMAGES[kind](tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    ended = warm("generate", "--prompts", "prompts.txt", "--model", "model", "--out", "out", "-q", cwd=tmp_path)
    assert ended.code == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert "model: not a StableDiffusionPipeline (" in ended.stderr


def test_a_model_without_numbers_fails_its_records(warm: Warm, tmp_path: Path) -> None:
    """As a training run that diverged leaves it."""
    (tmp_path / "model").mkdir()
    save_file({name: t * float("nan") for name, t in lora().items()}, tmp_path / "model" / LORA)
    (tmp_path / "prompts.txt").write_text("a red circle\na blue ring\n")
    options = ("--model", "model", "--set", "generator.steps=2", "-q", "--out")
    ended = warm("generate", "--prompts", "prompts.txt", *options, "out", cwd=tmp_path)
    assert ended.code == 3 and ended.stderr.count("\n") == 2, ended.stderr
    records = [json.loads(line) for line in (tmp_path / "out" / METADATA).read_text().splitlines()]
    assert [[failure["kind"] for failure in record["failures"]] for record in records] == [["not_finite"]] * 2
    assert not any(record.get("file_name") for record in records) and not list((tmp_path / "out").glob("*.png"))


def test_a_prompt_that_is_too_long_is_named_and_no_library_speaks(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n" + "a red circle and " * 9 + "a blue ring\n")
    command = ("generate", "--prompts", "prompts.txt", "--set", "generator.steps=1", "--out")
    ended = warm(*command, "out", cwd=tmp_path)
    said = [line for line in ended.stderr.splitlines() if "WARNING" in line]
    assert ended.code == 0 and len(said) == 1, ended.stderr
    assert "record 000001: the generator reads " in " ".join(ended.stderr.split())
    quiet = warm(*command, "quiet", "-q", cwd=tmp_path)
    assert (quiet.code, quiet.stderr) == (0, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["steps", "guidance", "size", "model_batch_size", "adapter", "checkpoint", "lora", "threshold", "other"]
)
SECTIONS = st.sampled_from(["generator", "tagger", "scorer", "checkpoints", "batch_size", "needs_gpu", "mine"])


def toml(value: object) -> str:
    """A value as TOML says it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value).lower() if isinstance(value, float | bool) else json.dumps(value)


VALUES = JSON.filter(lambda value: "null" not in json.dumps(value))
DOCUMENTS = st.dictionaries(SECTIONS, st.dictionaries(KEYS, VALUES, max_size=4) | VALUES, max_size=4).map(
    lambda data: "".join(f"{key} = {toml(value)}\n" for key, value in data.items()).encode(errors="replace")
)
PACKAGED = (Path(presets.__file__).parent / "sd15.toml").read_bytes()


def changed(data: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes of `data` in place of which others stand."""
    return st.builds(
        lambda at, length, new: data[:at] + new + data[at + length :],
        st.integers(0, len(data)),
        st.integers(0, 40),
        st.binary(max_size=40),
    )


@fuzzed
@given(st.binary(max_size=200) | DOCUMENTS | changed(PACKAGED), st.text(max_size=20) | st.just("generator.steps=2"))
def test_no_preset_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, data: bytes, override: str) -> None:
    """What is read can be used and written down; the rest is refused in one line."""
    file = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    file.write_bytes(data)
    for overrides in ((), (override,)):
        try:
            preset = presets.load(str(file), overrides)
            json.dumps(Models(preset, "cpu").describe(preset.sections), allow_nan=False).encode()
        except UsageError as error:
            assert str(error)
        else:
            assert preset.batch_size > 0 and all(one.folder.name for one in preset.checkpoints)


@fuzzed
@given(
    st.binary(max_size=100)
    | JSON.map(json.dumps).map(str.encode)
    | st.dictionaries(st.sampled_from(["step", "files", "config"]), JSON, max_size=3).map(json.dumps).map(str.encode)
)
def test_no_manifest_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "manifest"
    folder.mkdir(exist_ok=True)
    (folder / LORA).write_bytes(b"")
    for read in (checkpoint.read, checkpoint.clear, lambda path: presets.with_model(presets.load("tiny"), path)):
        (folder / checkpoint.MANIFEST).write_bytes(data)
        try:
            read(folder)
        except UsageError as error:
            assert str(error)
    assert (folder / LORA).exists()


@pytest.fixture(scope="module")
def generator() -> StableDiffusion:
    return StableDiffusion(str(GENERATOR), device="cpu", steps=1, guidance=1.0, size=64, model_batch_size=1)


TENSORS = st.dictionaries(
    st.sampled_from([LAYER, f"{LAYER}.x", "unet.x", "x"]).flatmap(
        lambda name: st.sampled_from(
            ["lora.down.weight", "lora.up.weight", "lora_A.weight", "lora_B.weight", "alpha", "y"]
        ).map(lambda end: f"{name}.{end}")
    ),
    st.lists(st.sampled_from([0, 1, 4, WIDTH]), max_size=3).map(torch.ones),
    max_size=3,
).map(save)


@fuzzed
@given(st.binary(max_size=100) | TENSORS | changed(save(lora())[:400]) | changed(save(lora())))
def test_no_lora_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, generator: StableDiffusion, data: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "lora"
    folder.mkdir(exist_ok=True)
    (folder / LORA).write_bytes(data)
    try:
        load_lora(generator.pipeline, folder)
    except UsageError as error:
        assert str(error) and "\n" not in str(error)
    finally:
        generator.pipeline.unload_lora_weights()
