"""What only a GPU can show: precisions, the cost of the fine stage, memory, training, and how fast the judges are.

    python benchmarks/gpu.py [PART ...] [--minutes 8] [--small]

The parts are `precision`, `refine`, `memory`, `train` and `judges`; without a name, all of them. Each prints a table in
Markdown and begins nothing new once its minutes are over. Generators have random weights in the published shapes of
Stable Diffusion 1.5 and XL, so no checkpoint is needed: times and memory are those of the published weights, images are
not. Judges are those of `sd15` where they were downloaded, else the embedded ones, which must say on the GPU what they
say on the processor. Without a GPU, and with `--small`, the same code runs on small shapes, and proves that it runs.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from attention_layer import masks
from PIL import Image

from realign_cli import presets
from realign_cli.commands.download import is_present
from realign_cli.errors import RecordError
from realign_cli.models.diffusion.architectures import ARCHITECTURES, tokenizers
from realign_cli.models.diffusion.stable_diffusion import StableDiffusion
from realign_cli.models.diffusion.stable_diffusion_xl import StableDiffusionXL
from realign_cli.models.diffusion.trainable import TrainableStableDiffusion
from realign_cli.registry import Models
from realign_cli.roles import Region, Request
from realign_cli.tinyworld.scenes import render, scenes
from realign_cli.tinyworld.train import text

PROMPT, PHRASES = "a red circle and a blue ring", ("a red circle", "a blue ring")
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
KINDS = {
    "sd1": (StableDiffusion, diffusers.StableDiffusionPipeline, {"safety_checker": None, "feature_extractor": None}),
    "sdxl": (StableDiffusionXL, diffusers.StableDiffusionXLPipeline, {"add_watermarker": False}),
}
BUILD = {
    "text_encoder": lambda part: transformers.CLIPTextModel(transformers.CLIPTextConfig(**part)),
    "text_encoder_2": lambda part: transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**part)),
    "unet": diffusers.UNet2DConditionModel.from_config,
    "vae": diffusers.AutoencoderKL.from_config,
}
NAMES = {"sd1": "Stable Diffusion 1.5", "sdxl": "Stable Diffusion XL"}
_TEXT = {
    "vocab_size": len(text.tokenizer()),
    "max_position_embeddings": text.LENGTH,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_UNET = {"layers_per_block": 1, "norm_num_groups": 8}
_SMALL = {
    "sd1": {
        "unet": {**_UNET, "block_out_channels": [8, 16, 16, 16], "attention_head_dim": 2, "cross_attention_dim": 32}
    },
    "sdxl": {
        "unet": {
            **_UNET,
            "block_out_channels": [8, 16, 16],
            "transformer_layers_per_block": [1, 1, 2],
            "attention_head_dim": [1, 2, 2],
            "cross_attention_dim": 64,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 32,
        }
    },
}
for small in _SMALL.values():
    small["vae"] = {"block_out_channels": [8] * 4, "layers_per_block": 1, "norm_num_groups": 4}
    small["text_encoder"] = small["text_encoder_2"] = {**_TEXT, "projection_dim": 32}
_MADE: dict[str, TemporaryDirectory[str]] = {}  # folders of checkpoints, until the process ends


@dataclass
class Bench:
    """Where and how long things are measured, and what came of it."""

    device: str
    small: bool
    minutes: float
    rows: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ends = time.monotonic() + 60 * self.minutes

    @property
    def steps(self) -> int:
        return 2 if self.small else 20

    @property
    def usual(self) -> str:
        """The precision of a preset."""
        return "float16" if self.device == "cuda" else "float32"

    def size(self, kind: str) -> int:
        return 64 if self.small else 1024 if kind == "sdxl" else 512

    def row(self, what: str, measure: Callable[[], list[str]]) -> None:
        """A line of the table: seconds, GB at the peak, and what `measure` says; or why there is none."""
        if time.monotonic() > self._ends:
            self.rows.append([what, "not run: no time was left"])
            return
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            self.rows.append([what, *measure()])
        except torch.OutOfMemoryError:
            self.rows.append([what, "out of memory"])

    def timed(self, work: Callable[[], object]) -> tuple[float, str]:
        """Seconds of a second run of `work`, and the GB that were held at most."""
        for _ in range(1 if self.small else 2):
            began = time.perf_counter()
            work()
            if self.device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
        peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if self.device == "cuda" else ""
        return seconds, peak


def table(head: str, rows: list[list[str]]) -> str:
    columns = head.split(" | ")
    lines = [columns, ["---"] * len(columns), *(row + [""] * (len(columns) - len(row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def checkpoint(kind: str, bench: Bench) -> Path:
    """The folder of a pipeline of random weights, in float16; made once."""
    if kind in _MADE:
        return Path(_MADE[kind].name)
    small = _SMALL[kind] if bench.small else {}
    parts = {name: {**part, **small.get(name, {})} for name, part in ARCHITECTURES[kind].items()}
    torch.manual_seed(0)
    with torch.device(bench.device):
        models = {name: build(parts[name]) for name, build in BUILD.items() if name in parts}
    scheduler = diffusers.DDIMScheduler.from_config(parts["scheduler"])
    _, pipeline, without = KINDS[kind]
    names = [name.replace("text_encoder", "tokenizer") for name in models if name.startswith("text_encoder")]
    read = dict.fromkeys(names, text.tokenizer()) if bench.small else tokenizers(kind)
    made = pipeline(scheduler=scheduler, **models, **read, **without)
    _MADE[kind] = TemporaryDirectory()
    made.to(torch.float16).save_pretrained(_MADE[kind].name)
    return Path(_MADE[kind].name)


def generator(folder: Path, kind: str, bench: Bench, precision: str, **options: Any) -> Any:
    """The adapter in a precision; that of a preset is float16 on a GPU."""
    made = KINDS[kind][0](
        str(folder),
        device=bench.device,
        steps=bench.steps,
        guidance=5.0,
        size=bench.size(kind),
        full_precision=precision == "float32",
        **{"model_batch_size": 1, **options},
    )
    if precision != "float32" and not options.get("cpu_offload"):
        made.pipeline.to(PRECISIONS[precision])
    return made


def requests(size: int, count: int) -> list[Request]:
    """Images of two overlapping objects that cover 38 % of each."""
    regions = tuple(Region(phrase, 2.0, mask.numpy()) for phrase, mask in zip(PHRASES, masks(size), strict=True))
    return [Request(PROMPT, seed, regions) for seed in range(count)]


# Images in half precisions against float32


def precision(bench: Bench) -> str:
    for kind in ["sdxl"] if bench.small else KINDS:
        exact: list[Any] = []
        folder = checkpoint(kind, bench)
        for name in PRECISIONS:
            bench.row(f"{NAMES[kind]}, {name}", partial(_images, bench, kind, folder, name, exact))
    return "precision | seconds an image | GB | mean difference to float32, of 255 | black or not finite"


def _images(bench: Bench, kind: str, folder: Path, name: str, exact: list[Any]) -> list[str]:
    """The first that are drawn go into `exact`, with which others are compared."""
    made, asked = generator(folder, kind, bench, name), requests(bench.size(kind), 2)
    drawn: list[Any] = []
    seconds, peak = bench.timed(lambda: drawn.append(made.generate(asked)))
    images = drawn[-1]
    exact += images if not exact else []
    bad = sum(isinstance(image, RecordError) or not np.asarray(image).any() for image in images)
    found = [f"{seconds / len(asked):.2f}", peak, "", f"{bad} of {len(asked)}"]
    if not bad:
        differences = [np.asarray(a, int) - np.asarray(b, int) for a, b in zip(images, exact, strict=True)]
        found[2] = f"{np.abs(differences).mean():.2f}"
    return found


# The fine stage against plain generation


def refine(bench: Bench) -> str:
    for kind in ["sdxl"] if bench.small else KINDS:
        plain: list[float] = []
        folder = checkpoint(kind, bench)
        made = generator(folder, kind, bench, bench.usual)
        for name in ("plain", "modulation", "regional"):
            bench.row(f"{NAMES[kind]}, {name}", partial(_refined, bench, kind, made, name, plain))
    return "method | seconds an image | of plain | GB"


def _refined(bench: Bench, kind: str, made: Any, name: str, plain: list[float]) -> list[str]:
    control = None if name == "plain" else Models(presets.load("sd15", [f"refine.method={name}"])).region_control
    asked = requests(bench.size(kind), 2)
    seconds, peak = bench.timed(lambda: made.generate(asked, control))
    plain.append(seconds)
    return [f"{seconds / len(asked):.2f}", f"{seconds / plain[0]:.2f}", peak]


# What options of the generator change


def memory(bench: Bench) -> str:
    batches = (2,) if bench.small else (1, 2, 4, 8)
    ways: dict[str, dict[str, Any]] = {
        **{f"batches of {size}": {"model_batch_size": size} for size in batches},
        "attention slicing": {"attention_slicing": True},
        "CPU offload": {"cpu_offload": True},
    }
    for kind in ["sdxl"] if bench.small else KINDS:
        folder = checkpoint(kind, bench)
        for name, options in ways.items():
            bench.row(f"{NAMES[kind]}, {name}", partial(_with_options, bench, kind, folder, options))
    return "option | seconds an image | GB"


def _with_options(bench: Bench, kind: str, folder: Path, options: dict[str, Any]) -> list[str]:
    made = generator(folder, kind, bench, bench.usual, **options)
    asked = requests(bench.size(kind), options.get("model_batch_size", 1))
    seconds, peak = bench.timed(lambda: made.generate(asked))
    return [f"{seconds / len(asked):.2f}", peak]


# Training: a reward term of one image, whose gradient goes through U-Net and autoencoder, and L_pre of one


def train(bench: Bench) -> str:
    ways = [(rank, name, saving) for rank in (32, 0) for name in PRECISIONS for saving in (True, False)]
    for kind in ["sdxl"] if bench.small else KINDS:
        folder = checkpoint(kind, bench)
        for rank, name, saving in ways[::5] if bench.small else ways:
            what = f"LoRA of rank {rank}" if rank else "the whole U-Net"
            line = f"{NAMES[kind]}, {what}, {name}{', checkpointing' if saving else ''}"
            bench.row(line, partial(_trained, bench, kind, folder, rank, name, saving))
    return "what is trained | seconds a step | GB | weights finite"


def _trained(bench: Bench, kind: str, folder: Path, rank: int, name: str, saving: bool) -> list[str]:
    made = generator(folder, kind, bench, "float32")
    trainee = TrainableStableDiffusion(made, steps=bench.steps, guidance=5.0, rank=rank, checkpointing=saving, seed=0)
    weights = list(trainee.trainable_parameters().values())
    optimizer = torch.optim.AdamW(weights, lr=1e-6)
    scaler = torch.amp.GradScaler(bench.device, enabled=name == "float16")

    def step() -> None:
        prompts, latents = trainee.embed([PROMPT]), trainee.initial_noise([0])
        times = torch.full((1,), trainee.time(1), device=latents.device)
        with torch.autocast(bench.device, PRECISIONS[name], enabled=name != "float32"):
            pixels = trainee.decode(trainee.predict_x0(latents, prompts, times))
            loss = trainee.denoising_loss(latents, prompts, 0).mean() - pixels.mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    seconds, peak = bench.timed(step)
    finite = all(weight.isfinite().all() for weight in weights)
    return [f"{seconds:.2f}", peak, "yes" if finite else "no"]


# What looks at images


def judges(bench: Bench) -> str:
    published = presets.load("sd15")
    needed = [one for one in published.checkpoints if one.kind == "model" and set(published.users(one)) & JUDGES]
    there = not bench.small and all(is_present(published, one) for one in needed)
    preset = published if there else presets.load("tiny")
    models, side = Models(preset, bench.device), 512 if there else 64
    exact = None if there else models if bench.device == "cpu" else Models(preset, "cpu")
    drawn = list(islice(scenes(0), 4 if bench.small else 64))
    images = [Image.fromarray(render(scene)).resize((side, side)) for scene in drawn]
    prompts = [scene.caption for scene in drawn]
    for name, look in LOOKS.items():
        bench.row(f"{name} ({preset.name})", partial(_judged, bench, models, exact, look, images, prompts))
    return "judge | images a second | GB | the same as on a processor"


def _judged(bench: Bench, models: Models, exact: Models | None, look: Look, images: Any, prompts: Any) -> list[str]:
    found: list[list[Any]] = []
    seconds, peak = bench.timed(lambda: found.append(look(models, images, prompts)))
    same = ""
    if exact:
        same = f"{np.mean([a == b for a, b in zip(found[-1], look(exact, images, prompts), strict=True)]):.0%}"
    return [f"{len(images) / seconds:.1f}", peak, same]


def _rounded(values: Any) -> list[float]:
    return np.asarray(values, float).round(1).ravel().tolist()


JUDGES = {"captioner", "tagger", "detector", "mask_model", "clip", "blip", "fid"}
Look = Callable[[Models, Any, Any], list[Any]]
LOOKS: dict[str, Look] = {
    "tag": lambda models, images, _: [[tag.label for tag in tags] for tags in models.tagger.tag(images)],
    "caption": lambda models, images, _: models.captioner.caption(images),
    "detect": lambda models, images, _: [
        len(found) for found in models.detector.detect(images, [["circle", "square"] for _ in images])
    ],
    "mask": lambda models, images, _: [
        int(mask.sum()) // 20 for mask in models.mask_model.masks(images, [[(4, 4, 40, 40)] for _ in images])
    ],
    "clip": lambda models, images, prompts: _rounded([*models.metric("clip").measure(images, prompts).values()]),
    "blip": lambda models, images, prompts: _rounded([*models.metric("blip").measure(images, prompts).values()]),
    "features of fid": lambda models, images, _: _rounded(models.features.features(images)),
}

PARTS: dict[str, Callable[[Bench], str]] = {
    "precision": precision,
    "refine": refine,
    "memory": memory,
    "train": train,
    "judges": judges,
}


def machine(device: str) -> str:
    where = torch.cuda.get_device_name() if device == "cuda" else "no GPU, small shapes"
    return f"{where}; torch {torch.__version__}, diffusers {diffusers.__version__}"


def measured(part: str, device: str, *, small: bool, minutes: float) -> tuple[str, list[list[str]]]:
    """The head of a part's table and its rows."""
    bench = Bench(device, small, minutes)
    return PARTS[part](bench), bench.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--minutes", type=float, default=8, help="after which a part begins nothing new")
    parser.add_argument("--small", action="store_true", help="small shapes, as without a GPU")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    logging.disable(logging.WARNING)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sys.stdout.write(f"{machine(device)}\n")
    for part in arguments.parts or PARTS:
        small = arguments.small or device == "cpu"
        head, rows = measured(part, device, small=small, minutes=arguments.minutes)
        sys.stdout.write(f"\n`python benchmarks/gpu.py {part}`\n\n{table(head, rows)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
