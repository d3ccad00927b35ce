"""`download`, `convert` and `doctor` against a hub on loopback, and the models that come of it, without a network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from hub_server import COMMIT, HubServer
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from realign_cli import presets
from realign_cli.app import app
from realign_cli.data.prompt_sets import coco_images
from realign_cli.models.vision.ram import RamTagger
from realign_cli.tinyworld.scenes import render, scenes
from realign_cli.tinyworld.train.publish import WEIGHTS

WEIGHTS_OF_BLIP = "model.safetensors"
PRESET = """
[generator]
adapter = "realign_cli.models.diffusion.stable_diffusion:StableDiffusion"
checkpoint = "someone/generator"
steps = 2
guidance = 3.0
size = 64
batch_size = 1

[captioner]
adapter = "realign_cli.models.vision_language.blip2:Blip2Captioner"
checkpoint = "someone/captioner"

[text_encoder]
adapter = "realign_cli.models.vision_language.blip2:Blip2TextEncoder"
checkpoint = "someone/blip"

[tagger]
adapter = "realign_cli.models.vision.ram:RamTagger"
checkpoint = "fetched:ram"
threshold = 0.0
"""


# What lies in the published repository beside the files that are used.
DECOYS = (
    "README.md",
    "v1-5-pruned.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "v1-inference.yaml",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "safety_checker/pytorch_model.bin",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
)


def checkpoint(name: str, revision: str, published: str) -> str:
    """An entry with the patterns that preset sd15 has for a published checkpoint."""
    known = presets.load("sd15").checkpoint(published)
    assert known is not None
    entry = f'name = "{name}"\nrevision = "{revision}"\npatterns = {json.dumps(known.patterns)}'
    return f'\n[[checkpoints]]\n{entry}\ngigabytes = 0.1\nloaded = 0.1\nlicence = "Apache-2.0"\n'


def as_published(folder: Path) -> Path:
    """The packaged generator among all that lies beside the published one."""
    shutil.copytree(WEIGHTS / "generator", folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    for decoy in DECOYS:
        (folder / decoy).parent.mkdir(exist_ok=True)
        (folder / decoy).write_text("not wanted")
    return folder


class World:
    """A folder with a preset, and the environment of a computer that has fetched nothing."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder, self.hub = folder, hub
        self.preset = folder / "mine.toml"
        self.home = folder / "home"
        self.environment = os.environ | {"HF_HOME": str(self.home), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}

    def describe(self, *sections: str) -> None:
        """A preset of these sections alone."""
        wanted = [part for part in PRESET.split("\n\n") if any(f"[{name}]" in part for name in sections)]
        text = "\n\n".join(part.strip() for part in wanted) + "\n"
        text += checkpoint("someone/generator", COMMIT, "stable-diffusion-v1-5/stable-diffusion-v1-5")
        text += checkpoint("someone/captioner", "main", "Salesforce/blip2-opt-2.7b")
        text += checkpoint("someone/blip", COMMIT, "Salesforce/blip2-itm-vit-g")
        text += '\n[[checkpoints]]\nname = "fetched:ram"\ngigabytes = 0.1\nloaded = 0.1\nlicence = "Apache-2.0"\n'
        for file in sorted(self.hub.plain.iterdir()):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            text += f'[[checkpoints.files]]\nname = "{file.name}"\nurl = "{self.hub.url}/plain/{file.name}"\n'
            text += f'sha256 = "{digest}"\n' + ('instead = "model.safetensors"\n' if file.suffix == ".pth" else "")
        self.preset.write_text(text)

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "realign_cli", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, *arguments: object, code: int = 0, **environment: str) -> str:
        """Both streams of `realign command --preset mine.toml ...`, which has to end with `code`."""
        process = self.start(command, "--preset", self.preset, *arguments, **environment)
        out, err = process.communicate()
        assert process.returncode == code, out + err
        return out + err


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("tag_list.txt", "thresholds.txt"):
        (plain / name).write_bytes((WEIGHTS / "tagger" / name).read_bytes())
    state = load_file(WEIGHTS / "tagger" / "model.safetensors")
    blocks = {key.rsplit(".norm1", 1)[0] for key in state if ".blocks.1.norm1" in key}
    tables = {key: len(state[f"{key}.attn.relative_position_bias_table"]) for key in blocks}
    # As published: under "model", with a mask for each window of a shifted block, and with parts that are not used.
    config = json.loads(_metadata(WEIGHTS / "tagger" / "model.safetensors")["config"])
    windows = (config["img"] // 4 // config["win"]) ** 2
    masks = {f"{key}.attn_mask": torch.zeros(windows, tables[key] // 4 + 1, 1) for key in blocks}
    torch.save({"model": state | masks | {"text_decoder.x": torch.zeros(9)}}, plain / "ram_small.pth")
    repos = {f"someone/{name}": WEIGHTS / name for name in ("captioner", "blip")}
    repos["someone/generator"] = as_published(tmp_path / "published")
    with HubServer(repos, plain) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield World(tmp_path, server)
        server.closing.set()
        server.shutdown()
        thread.join()


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_everything_is_fetched_and_then_runs_without_a_network(world: World) -> None:
    world.describe("generator", "captioner", "text_encoder", "tagger")
    plan = world.run("download", "--list")
    assert plan.count("missing ") == 4 and "0.4 GB to fetch" in plan
    assert "someone/captioner (main) for captioner; licence: Apache-2.0" in plan
    assert not world.hub.asked  # a plan asks for nothing
    world.hub.torn |= {WEIGHTS_OF_BLIP, "unet/diffusion_pytorch_model.safetensors", "ram_small.pth"}
    assert world.run("download", "-q") == ""
    assert len(world.hub.asked_for("unet/diffusion_pytorch_model.safetensors")) == 2
    first, second = world.hub.asked_for("ram_small.pth")
    assert first is None and second is not None and second.startswith("bytes=")  # it went on where it broke
    asked = len(world.hub.asked)
    assert not {name for name, _ in world.hub.asked} & {*DECOYS} - {"safety_checker/config.json"}  # a few bytes
    assert world.run("download", "--list").count("here ") == 4
    assert "all there" in world.run("download")
    assert len(world.hub.asked) == asked

    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    (world.folder / "prompts.txt").write_text("a red circle\n")
    world.run("generate", "--prompts", "prompts.txt", "--out", "coarse", "--device", "cpu", **offline)
    world.run("caption-reward", "--in", "coarse", "--out", "read", **offline)
    record = json.loads((world.folder / "read" / "metadata.jsonl").read_text())
    assert record["caption"]["text"]
    settings = json.loads((world.folder / "read" / "run.json").read_text())["config"]["settings"]
    assert settings["captioner"]["revision"] == settings["text_encoder"]["revision"] == COMMIT  # that "main" was


def test_a_killed_download_goes_on(world: World) -> None:
    world.describe("text_encoder", "tagger")
    world.hub.stalled |= {"ram_small.pth"}
    process = world.start("download", "--preset", world.preset)
    part = world.home / "realign" / "ram" / "ram_small.pth.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    asked = len(world.hub.asked_for(WEIGHTS_OF_BLIP))
    world.hub.stalled.clear()
    world.run("download")
    assert len(world.hub.asked_for(WEIGHTS_OF_BLIP)) == asked == 1  # what was there is not asked for again
    assert world.hub.asked_for("ram_small.pth")[1] is not None
    assert not part.exists()

    folder = part.parent
    before = RamTagger(folder, device="cpu", threshold=0.0)
    assert f"wrote {folder / 'model.safetensors'}" in world.run("convert", "ram").replace("\n", "")
    (folder / "ram_small.pth").unlink()
    after = RamTagger(folder, device="cpu", threshold=0.0)
    for a, b in zip(before._model.state_dict().values(), after._model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert world.run("download", "--list").count("here ") == 2  # the converted file stands for the published one


@pytest.mark.parametrize("kind", ["hub", "plain"])
def test_what_is_not_what_was_published_is_not_kept(world: World, kind: str) -> None:
    world.describe("text_encoder" if kind == "hub" else "tagger")
    if kind == "hub":
        world.hub.damaged.add(WEIGHTS_OF_BLIP)
        complaint = "someone/blip: model.safetensors is not what the hub has (checksum) and is deleted"
    else:
        (world.hub.plain / "tag_list.txt").write_text("another file")
        complaint = "tag_list.txt: not the file that was published (SHA-256); or put the file at"
    assert complaint in world.run("download", code=1).replace("\n", "")
    assert "missing " in world.run("download", "--list")
    assert not [file for file in world.home.rglob("*") if file.name in (WEIGHTS_OF_BLIP, "tag_list.txt")]


COCO = """
batch_size = 16

[fid]
adapter = "realign_cli.tinyworld.scene_net:SceneFeatures"
checkpoint = "package:features"
reference = "someone/coco"

[[checkpoints]]
name = "someone/coco"
kind = "dataset"
revision = "{commit}"
gigabytes = 6.6
loaded = 0.0
licence = "CC BY 4.0"
patterns = ["data/val-*.parquet"]
"""


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """A dozen, which stand for all photographs."""
    buffers = [io.BytesIO() for _ in range(12)]
    for buffer, scene in zip(buffers, scenes(3), strict=False):
        Image.fromarray(render(scene)).save(buffer, "PNG")
    return [buffer.getvalue() for buffer in buffers]


@pytest.fixture(scope="module")
def val2014(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> Path:
    """A folder with the names of COCO 2014 val, and the same images as parquet files beside it."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "val2014").mkdir()
    (folder / "data").mkdir()
    for i, picture in enumerate(pictures):
        (folder / f"{i}.png").write_bytes(picture)
    names = [f"COCO_val2014_{14 * i + 7:012d}.jpg" for i in range(40_504)]
    for i, name in enumerate(names):
        (folder / "val2014" / name).hardlink_to(folder / f"{i % 12}.png")
    for part in range(2):
        rows = range(part, len(names), 2)
        images = [{"bytes": pictures[i % 12], "path": None} for i in rows]
        table = pyarrow.table({"id": list(rows), "image": images, "file_name": [names[i] for i in rows]})
        pyarrow.parquet.write_table(table, folder / "data" / f"val-0000{part}-of-00002.parquet")
    (folder / "data" / "test-00000-of-00001.parquet").write_text("not wanted")
    return folder / "val2014"


def test_the_reference_is_made_once_of_the_hubs_images_or_of_a_folder(
    world: World, val2014: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.preset.write_text(COCO.format(commit=COMMIT))
    world.hub.repos["someone/coco"] = val2014.parent
    (world.folder / "coarse").mkdir()
    lines = []
    for i, picture in enumerate(pictures[:4]):
        (world.folder / "coarse" / f"{i}.png").write_bytes(picture)
        lines.append(json.dumps({"id": f"{i}", "text": "a red circle", "file_name": f"{i}.png"}) + "\n")
    (world.folder / "coarse" / "metadata.jsonl").write_text("".join(lines))
    judge = ("eval", "--metrics", "fid", "--in", "coarse", "--json")
    here = {"XDG_CACHE_HOME": str(world.folder / "hub-cache")}

    assert f"realign download --preset {world.preset}' fetches its images (6.6 GB)" in world.run(*judge, code=1, **here)
    assert "missing   6.6 GB  someone/coco (0123456789ab) for fid" in world.run("download", "--list", **here)
    world.hub.torn.add("data/val-00001-of-00002.parquet")
    said = world.run("download", **here).replace("\n", "")
    assert "made " in said and "all there" in said
    assert not world.hub.asked_for("data/test-00000-of-00001.parquet") and "Traceback" not in said
    assert len(world.hub.asked_for("data/val-00001-of-00002.parquet")) == 2
    (made,) = (world.folder / "hub-cache" / "realign" / "references").iterdir()  # and nothing of the unpacked images
    offline = here | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert world.run("download", "--list", **offline).startswith("here ")
    report = json.loads(world.run(*judge, **offline))
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    assert report["fid"]["reference"] == {"name": f"COCO 2014 val ({made.name})", "n": 5000, "sha256": digest}

    # The same images in a folder give the same bytes, once all are there and can be read. (In this process, which has
    # the libraries loaded.)
    number = coco_images(14 * i + 7 for i in range(40_504))[3]
    damaged = val2014 / f"COCO_val2014_{number:012d}.jpg"
    whole = damaged.read_bytes()
    damaged.unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(world.folder / "my-cache"))
    line = ["download", "--preset", str(world.preset), "--in", str(val2014)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2
    assert "40,503 images of COCO 2014 val (COCO_val2014_*.jpg), and it has 40,504" in done.stderr.replace("\n", "")
    damaged.write_bytes(whole[:100])
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 1
    assert f"1 of the 5,000 images cannot be read, the first: {damaged}" in done.stderr.replace("\n", "")
    damaged.write_bytes(whole)
    done = CliRunner().invoke(app, [*line, "-q"])
    assert (done.exit_code, done.output) == (0, "")
    (again,) = (world.folder / "my-cache" / "realign" / "references").iterdir()
    assert again.read_bytes() == made.read_bytes()


def test_a_folder_is_for_a_reference(world: World) -> None:
    world.describe("tagger")
    assert "--in val2014: preset 'mine' makes no statistics" in world.run("download", "--in", "val2014", code=2)


def test_without_room_nothing_is_begun(world: World) -> None:
    world.describe("text_encoder")
    world.preset.write_text(world.preset.read_text().replace("gigabytes = 0.1", "gigabytes = 1e6"))
    said = " ".join(world.run("download", code=1).split())
    assert re.search(r"GB free at \S+/home, 1000000.0 GB to fetch; free some space, or set HF_HOME", said), said
    assert not world.hub.asked


def test_doctor_names_what_is_missing_and_how_to_get_it(world: World) -> None:
    world.describe("text_encoder", "tagger")
    found = world.run("doctor", code=1)
    assert "ok    Python: 3." in found and "ok    packages: all" in found
    assert "wrong checkpoints: 2 of 2 missing: someone/blip, fetched:ram" in found
    assert f"-> realign download --preset {world.preset}" in found
    assert f"ok    hub: {world.hub.url} answers" in found
    found = world.run("doctor", code=1, HF_HUB_OFFLINE="1")
    assert "wrong hub: HF_HUB_OFFLINE forbids it" in found
    assert "HF_HUB_OFFLINE is set and someone/blip is not here" in world.run("download", code=1, HF_HUB_OFFLINE="1")
    world.run("download")
    found = world.run("doctor", HF_HUB_OFFLINE="1")
    assert "ok    checkpoints: all 2 here" in found and "hub" not in found
