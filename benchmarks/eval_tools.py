"""FID, CLIP, NegCLIP and BLIP of one folder: one pass of `realign eval`, against the separate tools in turn.

    python benchmarks/eval_tools.py [--quick]

The separate tools are `python -m pytorch_fid`, a loop of open_clip for each of the two CLIPs and a loop of BLIP-2 in
transformers, as their own pages show them, each a process of its own that decodes in two workers; `realign eval` runs
with an empty cache. Both sides have the same models: Inception at full size with random weights, and the small embedded
CLIPs and BLIP-2. The folder holds 100 noisy 512 x 512 PNGs of scenes, its reference 100 others. In every round
the values must agree. Then `realign eval` runs again, after 2 images were added, with the cache of its first run.
Times are of whole commands: on the clock, and of the processor over all processes of a command.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from eval_pass import METRICS, draw
from PIL import Image
from ratios import PAIRS, Row, main
from torch.utils.data import DataLoader

from realign_cli import presets
from realign_cli.models.vision.inception import fid_inception
from realign_cli.tinyworld.train.publish import WEIGHTS

COUNT, BATCH, WORKERS = 100, 16, 2
TOLERANCE = {"fid": 1e-3, "clip": 1e-4, "negclip": 1e-4, "blip_itc": 1e-3, "blip_itm": 1e-3}  # fid's is relative


def loader(folder: Path, collate: Callable) -> DataLoader:
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    rows = [(folder / line["file_name"], line["text"]) for line in lines]
    return DataLoader(rows, BATCH, num_workers=WORKERS, collate_fn=collate)


@torch.no_grad()
def clip_loop(checkpoint: str, folder: Path, name: str) -> dict[str, float]:
    """Mean cosine by open_clip's usage example."""
    import open_clip

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{checkpoint}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{checkpoint}")
    model.eval()

    def collate(rows: list[tuple[Path, str]]):
        return torch.stack([preprocess(Image.open(path)) for path, _ in rows]), tokenizer([text for _, text in rows])

    cosines = []
    for images, texts in loader(folder, collate):
        seen, read = model.encode_image(images), model.encode_text(texts)
        seen, read = seen / seen.norm(dim=-1, keepdim=True), read / read.norm(dim=-1, keepdim=True)
        cosines.append((seen * read).sum(-1))
    return {name: torch.cat(cosines).mean().item()}


@torch.no_grad()
def blip_loop(checkpoint: str, folder: Path, name: str) -> dict[str, float]:
    """Mean contrastive cosine and matching probability by transformers' model, one call for each head."""
    from transformers import AutoTokenizer, Blip2ForImageTextRetrieval, BlipImageProcessor

    model = Blip2ForImageTextRetrieval.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    size = model.config.vision_config.image_size
    processor = BlipImageProcessor(size={"height": size, "width": size})

    def collate(rows: list[tuple[Path, str]]):
        images = processor([Image.open(path) for path, _ in rows], return_tensors="pt")
        texts = tokenizer([text for _, text in rows], padding=True, truncation=True, max_length=32, return_tensors="pt")
        return images.pixel_values, texts.input_ids, texts.attention_mask

    itc, itm = [], []
    for pixels, ids, mask in loader(folder, collate):
        head = torch.full((len(ids), model.config.num_query_tokens), model.config.image_token_index)
        ids, mask = torch.cat([head, ids], 1), torch.cat([torch.ones_like(head), mask], 1)
        itc.append(model(pixels, ids, mask).logits_per_image.diagonal())
        match = model(pixels, ids, mask, use_image_text_matching_head=True)
        itm.append(match.logits_per_image.softmax(-1)[:, 1])
    return {f"{name}_itc": torch.cat(itc).mean().item(), f"{name}_itm": torch.cat(itm).mean().item()}


LOOPS = {"clip": clip_loop, "blip": blip_loop}


def run(*arguments: object) -> str:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, check=True, text=True).stdout


def separate(folder: Path, reference: Path, metrics: Sequence[str]) -> dict[str, float]:
    """Each tool's value of the folder."""
    values = {}
    for metric in metrics:
        if metric == "fid":
            said = run("-m", "pytorch_fid", folder, reference, "--device", "cpu", "--num-workers", WORKERS)
            values["fid"] = float(said.split()[-1])
        else:
            loop = "blip" if metric == "blip" else "clip"
            values |= json.loads(run(__file__, loop, WEIGHTS / metric, folder, metric))
    return values


def together(folder: Path, reference: Path, metrics: Sequence[str], preset: Path, cache: Path) -> dict[str, float]:
    """The same values by one command."""
    command = ["-m", "realign_cli", "eval", "--in", folder, "--reference", reference, "--metrics", ",".join(metrics)]
    report = json.loads(run(*command, "--preset", preset, "--cache", cache, "--json", "--quiet"))
    means = {row["metric"]: row["value"]["mean"] for row in report["metrics"] if not row["category"]}
    return means | ({"fid": report["fid"]["in"]["fid"]} if "fid" in metrics else {})


def timed(function: Callable, *arguments: object) -> tuple[float, float, dict[str, float]]:
    """Seconds on the clock, seconds of the processor, and what the function returns."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    values = function(*arguments)
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, values


def random_inception(home: Path) -> None:
    """Random weights where torch's hub would put the published ones, scaled so that features do not vanish."""
    from pytorch_fid.inception import FID_WEIGHTS_URL

    torch.manual_seed(0)
    net = fid_inception()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    path = home / "hub" / "checkpoints" / FID_WEIGHTS_URL.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True)
    torch.save(net.state_dict(), path)


def own_preset(folder: Path) -> Path:
    """The embedded models, with Inception for FID."""
    tiny = (Path(presets.__file__).parent / "tiny.toml").read_text()
    swaps = {
        "tinyworld.scene_net:SceneFeatures": "models.vision.inception:InceptionFeatures",
        "package:features": "pytorch-fid",
    }
    for old, new in swaps.items():
        assert old in tiny
        tiny = tiny.replace(old, new)
    path = folder / "tiny.toml"
    path.write_text(tiny)
    return path


def measure(quick: bool) -> list[Row]:
    count, metrics = (3, ("clip",)) if quick else (COUNT, METRICS)
    clocks, processors, again = [], [], []
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        draw(here / "images", count)
        draw(here / "grown", count, max(1, count // 50))
        draw(here / "reference", 0, count)
        if "fid" in metrics:
            random_inception(here)
        os.environ["TORCH_HOME"] = name
        preset, others = own_preset(here), (here / "reference", metrics)
        for i in range(1 if quick else PAIRS):
            own = (*others, preset, here / f"cache-{i}")
            apart, apart_cpu, theirs = timed(separate, here / "images", *others)
            once, once_cpu, ours = timed(together, here / "images", *own)
            assert ours.keys() == theirs.keys()
            for column, value in theirs.items():
                assert abs(ours[column] - value) <= TOLERANCE[column] * (abs(value) if column == "fid" else 1), column
            clocks.append(apart / once)
            processors.append(apart_cpu / once_cpu)
            again.append(once / timed(together, here / "grown", *own)[0])
    peer = f"`python -m pytorch_fid`, loops of open_clip and transformers; {count} and {count} images of 512 x 512"
    return [
        Row("separate tools / one pass, on the clock", clocks, peer),
        Row("separate tools / one pass, of the processor", processors, peer),
        Row("one pass / another after adding 2 % of images, on the clock", again, limit="start of Python and models"),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in LOOPS:
        sys.stdout.write(json.dumps(LOOPS[sys.argv[1]](sys.argv[2], Path(sys.argv[3]), sys.argv[4])))
    else:
        main(measure)
