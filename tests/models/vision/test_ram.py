from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from realign_cli.errors import UsageError
from realign_cli.models.vision import ram
from realign_cli.models.vision.ram import Ram, RamConfig, RamTagger, convert, load_ram, published_name, save_ram
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train.publish import WEIGHTS
from realign_cli.tinyworld.train.tagger import measure

PARITY = Path(__file__).parents[3] / "../shared/data/parity"
TAGGER = WEIGHTS / "tagger"

SMALL = RamConfig(img=16, embed=8, depths=[1, 2], heads=[1, 2], win=2, vw=16, hid=16, inter=24, ncls=3, proj=12)
SWIN_L = RamConfig(
    img=384,
    embed=192,
    depths=[2, 2, 18, 2],
    heads=[6, 12, 24, 48],
    win=12,
    vw=1536,
    hid=768,
    inter=3072,
    ncls=4585,
    proj=512,
)

needs_parity = pytest.mark.skipif(not PARITY.is_dir(), reason="reference outputs are not beside this checkout")
needs_weights = pytest.mark.skipif(not TAGGER.is_dir(), reason="no packaged tagger; train it first")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Ram(SMALL)
    with torch.no_grad():  # fresh weights answer nearly alike for every label
        model.label_embed.normal_()
        model.fc.weight *= 20
    save_ram(model, tmp_path / "model.safetensors", torch.float32)
    (tmp_path / "tag_list.txt").write_text("cat\nbig dog\n3D rendering")
    (tmp_path / "thresholds.txt").write_text("0.2\n0.3\n0.4")
    return tmp_path


@pytest.fixture(scope="module")
def tagger() -> RamTagger:
    return RamTagger(TAGGER, device="cpu", threshold=0.0, model_batch_size=3)


def pictures(n: int, seed: int) -> list[Image.Image]:
    stream = scenes.scenes(seed, held_out=True)
    return [Image.fromarray(scenes.render(next(stream))) for _ in range(n)]


@needs_parity
@pytest.mark.parametrize("prefix", ["tagging_head", "vision_multi"])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "converted"])
@pytest.mark.parametrize("name", sorted(file.name.split(".")[0] for file in PARITY.glob("*.io.safetensors")))
def test_equals_the_original_implementation(name: str, kind: str, prefix: str, tmp_path: Path) -> None:
    """From each form that its weights come in; that of the `.pth` has no metadata to read the sizes from."""
    weights = PARITY / f"{name}.weights.safetensors"
    with safe_open(weights, "pt") as opened:
        metadata = opened.metadata()
    state = {key.replace("tagging_head.", f"{prefix}."): value for key, value in load_file(weights).items()}
    file = tmp_path / f"model.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(state, file, metadata)
    else:
        unused = {name: torch.zeros(1) for name in ("text_decoder.bert.weight", f"{prefix}.embeddings.weight")}
        torch.save({"model": state | unused, "epoch": 3}, file)
    if kind == "converted":
        convert(file, file := tmp_path / "converted.safetensors")
    model = load_ram(file)
    assert asdict(model.config) == json.loads(metadata["config"])
    reference = load_file(PARITY / f"{name}.io.safetensors")
    with torch.inference_mode():
        seen = model.visual_encoder(reference["pixel_values"])
        embeds = model.project(seen.pooler_output, seen.last_hidden_state)
        logits = model(reference["pixel_values"])
    assert torch.allclose(embeds, reference["image_embeds"], atol=1e-4)
    assert torch.allclose(logits, reference["logits"], atol=1e-4)
    assert reference["logits"].std() > 0.01  # else the comparison would show nothing


@needs_parity
def test_published_checkpoint_fits() -> None:
    published = json.loads((PARITY / "ram_swin_large_14m.inference_keys.json").read_text())
    with torch.device("meta"):
        model = Ram(SWIN_L)
    shapes: dict[str, list[int]] = {}
    for key, value in model.state_dict().items():
        name = published_name(key)
        rows = shapes.get(name, [0])[0] if ".attn.qkv." in name else 0
        shapes[name] = [rows + value.shape[0], *value.shape[1:]]
    needed = {k: v for k, v in published.items() if not k.endswith(("relative_position_index", "attn_mask"))}
    assert shapes == needed


@needs_parity
def test_sizes_of_the_published_checkpoint_are_read_off_its_shapes() -> None:
    published = json.loads((PARITY / "ram_swin_large_14m.inference_keys.json").read_text())
    assert ram._config({key: torch.empty(shape, device="meta") for key, shape in published.items()}) == SWIN_L


@pytest.mark.parametrize(
    ("content", "reason"),
    [({"model": {}}, "patch_embed|relative_position_bias_table"), ([], "list"), (Path("code"), "[Ww]eights")],
)
def test_another_pth_is_refused(small: Path, content: object, reason: str) -> None:
    """Not run: a pickle of something else than tensors is not opened."""
    (small / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no model\.safetensors, and 0 \.pth files"):
        RamTagger(small, device="cpu", threshold=0.0)
    torch.save(content, small / "ram.pth")
    with pytest.raises(UsageError, match=rf"ram\.pth: not a RAM checkpoint \(.*({reason})"):
        RamTagger(small, device="cpu", threshold=0.0)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Ram(SMALL).eval()
    save_ram(model, tmp_path / "model.safetensors", torch.float32)
    loaded = load_ram(tmp_path / "model.safetensors")
    pixels = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(loaded(pixels), model(pixels))
    assert not loaded.training


def test_published_names_and_extras_are_accepted(small: Path) -> None:
    state = load_file(small / "model.safetensors")
    assert any(key.startswith("tagging_head.") for key in state)
    renamed = {key.replace("tagging_head.", "vision_multi."): value for key, value in state.items()}
    renamed["text_decoder.bert.weight"] = torch.zeros(1)
    renamed["visual_encoder.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(1)
    save_file(renamed, small / "other.safetensors", metadata={"config": json.dumps(asdict(SMALL))})
    plain, other = (load_ram(small / f"{name}.safetensors") for name in ("model", "other"))
    pixels = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(plain(pixels), other(pixels))


@pytest.mark.parametrize(("change", "word"), [("drop", "missing"), ("add", "unexpected")])
def test_wrong_weights_are_refused(small: Path, change: str, word: str) -> None:
    state = load_file(small / "model.safetensors")
    if change == "drop":
        del state["visual_encoder.norm.bias"]
    else:
        state["visual_encoder.layers.9.norm.bias"] = torch.zeros(1)
    save_file(state, small / "model.safetensors", metadata={"config": json.dumps(asdict(SMALL))})
    with pytest.raises(UsageError, match=rf"{word} \['visual_encoder"):
        load_ram(small / "model.safetensors")


def test_a_file_without_configuration_is_refused(small: Path) -> None:
    save_file({"fc.bias": torch.zeros(1)}, small / "model.safetensors")
    with pytest.raises(UsageError, match="config"):
        load_ram(small / "model.safetensors")


def test_missing_and_mismatched_files_are_named(small: Path) -> None:
    (small / "tag_list.txt").write_text("cat\ndog")
    with pytest.raises(UsageError, match=r"3 classes.*2 labels"):
        RamTagger(small, device="cpu", threshold=0.0)
    (small / "tag_list.txt").unlink()
    with pytest.raises(UsageError, match=r"no tag_list\.txt"):
        RamTagger(small, device="cpu", threshold=0.0)


def test_own_thresholds_and_the_floor(small: Path) -> None:
    image = Image.new("RGB", (40, 24), (200, 30, 90))
    (small / "thresholds.txt").write_text("0 0 0")
    everything = RamTagger(small, device="cpu", threshold=0.0).tag([image])[0]
    confidences = [tag.confidence for tag in everything]
    assert sorted(tag.label for tag in everything) == ["3D rendering", "big dog", "cat"]
    assert confidences == sorted(confidences, reverse=True)
    best, middle = everything[0], everything[1]
    assert best.confidence > middle.confidence
    floor = (best.confidence + middle.confidence) / 2
    assert RamTagger(small, device="cpu", threshold=floor).tag([image])[0] == [best]
    own = {tag.label: 0.0 if tag == middle else 1.0 for tag in everything}
    labels = (small / "tag_list.txt").read_text().splitlines()
    (small / "thresholds.txt").write_text("\n".join(str(own[label]) for label in labels))
    assert RamTagger(small, device="cpu", threshold=0.0).tag([image])[0] == [middle]


@needs_weights
def test_recognises_held_out_scenes(tagger: RamTagger) -> None:
    assert measure(tagger, 60, spoil=False)["F1"] > 0.95
    assert measure(tagger, 60, spoil=True)["F1"] > 0.9


@needs_weights
def test_an_empty_picture_has_no_tags(tagger: RamTagger) -> None:
    grounds = [Image.fromarray(np.full((64, 64, 3), colour, np.uint8)) for colour in scenes.GROUNDS.values()]
    assert tagger.tag(grounds) == [[], [], []]


@needs_weights
def test_batching_changes_nothing(tagger: RamTagger) -> None:
    images = [*pictures(3, 5), pictures(1, 6)[0].resize((200, 120))]
    together = tagger.tag(images)
    assert together == [tagger.tag([image])[0] for image in images]
    assert together == tagger.tag(images[::-1])[::-1]
    assert any(together)
    for found, alone in zip(together, RamTagger(TAGGER, device="cpu", threshold=0.0).tag(images), strict=True):
        assert [tag.label for tag in found] == [tag.label for tag in alone]
        assert [tag.confidence for tag in found] == pytest.approx([tag.confidence for tag in alone], abs=2e-4)
