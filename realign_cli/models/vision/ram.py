"""The Recognize Anything Model (RAM; Zhang et al., 2023, arXiv:2306.03514), natively on transformers' Swin.

Only what recognition needs: image encoder, label embeddings and the cross-attention decoder that asks the image about
each label. Weights keep the names of the published checkpoint.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image, Resampling
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import SwinConfig, SwinModel

from realign_cli.errors import UsageError, first_line
from realign_cli.models.batches import in_full_batches
from realign_cli.records import Tag

_HEADS = 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Buffers of the published checkpoint that follow from the configuration.
_DERIVED = re.compile(r"(relative_position_index|attn_mask)$")
# The published checkpoint also holds a captioner; these are the parts that recognise.
_NEEDED = re.compile(r"(visual_encoder|image_proj|label_embed|wordvec_proj|tagging_head|fc)(\.|$)")
# transformers' name of a Swin weight -> the published one.
_PUBLISHED = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.norm\.", "patch_embed.norm."),
    (r"encoder\.layers\.", "layers."),
    (r"layernorm\.", "norm."),
    (r"(.*)\.layernorm_before\.", r"\1.norm1."),
    (r"(.*)\.layernorm_after\.", r"\1.norm2."),
    (r"(.*)\.attention\.[qkv]_proj\.", r"\1.attn.qkv."),
    (r"(.*)\.attention\.o_proj\.", r"\1.attn.proj."),
    (r"(.*)\.attention\.relative_position_bias\.", r"\1.attn."),
)


@dataclass(frozen=True)
class RamConfig:
    """Sizes of a RAM, by the keys of the checkpoint's metadata.

    `img` is the side of the square input in pixels; `embed`, `depths`, `heads` and `win` shape the Swin, whose last
    stage is `vw` wide; image and labels are `proj` wide, the label decoder `hid` with `inter` in its MLP; `ncls` is
    the number of labels. The published swin-L is (384, 192, [2, 2, 18, 2], [6, 12, 24, 48], 12, 1536, 768, 3072,
    4585, 512).
    """

    img: int
    embed: int
    depths: list[int]
    heads: list[int]
    win: int
    vw: int
    hid: int
    inter: int
    ncls: int
    proj: int


class Ram(nn.Module):
    """Logits of every label for a batch of images."""

    def __init__(self, config: RamConfig) -> None:
        super().__init__()
        self.config = config
        self.visual_encoder = SwinModel(
            SwinConfig(
                image_size=config.img,
                patch_size=4,
                embed_dim=config.embed,
                depths=config.depths,
                num_heads=config.heads,
                window_size=config.win,
                drop_path_rate=0.0,
            )
        )
        self.image_proj = nn.Linear(config.vw, config.proj)
        self.label_embed = nn.Parameter(torch.randn(config.ncls, config.proj) * 0.02)
        self.wordvec_proj = nn.Linear(config.proj, config.hid)
        layers = nn.ModuleList(_LabelLayer(config.hid, config.inter, config.proj) for _ in range(2))
        self.tagging_head = nn.ModuleDict({"encoder": nn.ModuleDict({"layer": layers})})
        self.fc = nn.Linear(config.hid, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, img, img) -> (B, ncls) logits."""
        seen = self.visual_encoder(pixels)
        return self.answer(self.project(seen.pooler_output, seen.last_hidden_state))

    def project(self, pooled: Tensor, cells: Tensor) -> Tensor:
        """What the image encoder saw, pooled (B, vw) and by cell (B, cells, vw) -> (B, 1 + cells, proj)."""
        return self.image_proj(torch.cat([pooled[:, None], cells], 1))

    def answer(self, image: Tensor) -> Tensor:
        """Image embeddings (B, 1 + cells, proj) -> (B, ncls) logits."""
        labels = self.wordvec_proj(self.label_embed).relu()[None]  # the same for all images until they look
        for layer in self.tagging_head["encoder"]["layer"]:
            labels = layer(labels, image)
        return self.fc(labels)[..., 0]


class _LabelLayer(nn.Module):
    """A BERT layer without self-attention: labels look at the image, then an MLP; post-norm."""

    def __init__(self, hid: int, inter: int, proj: int) -> None:
        super().__init__()
        self.crossattention = nn.ModuleDict(
            {
                "self": nn.ModuleDict(
                    {"query": nn.Linear(hid, hid), "key": nn.Linear(proj, hid), "value": nn.Linear(proj, hid)}
                ),
                "output": _residual(hid, hid),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hid, inter)})
        self.output = _residual(inter, hid)

    def forward(self, labels: Tensor, image: Tensor) -> Tensor:
        """(B or 1, ncls, hid), (B, cells, proj) -> (B, ncls, hid)."""
        attention = self.crossattention["self"]
        query, key, value = (
            attention[name](x).unflatten(-1, (_HEADS, -1)).transpose(1, 2)
            for name, x in (("query", labels), ("key", image), ("value", image))
        )
        query = query.expand(len(key), -1, -1, -1)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        output = self.crossattention["output"]
        labels = output["LayerNorm"](output["dense"](seen) + labels)
        wide = F.gelu(self.intermediate["dense"](labels))
        return self.output["LayerNorm"](self.output["dense"](wide) + labels)


def _residual(width: int, hid: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(width, hid), "LayerNorm": nn.LayerNorm(hid, eps=1e-12)})


class RamTagger:
    """Tags by RAM: a label is a tag where its probability exceeds its own threshold.

    Args:
        checkpoint: folder with the weights, `tag_list.txt` (a label a line) and `thresholds.txt` (a number a line). The
            weights are `model.safetensors`, or else the one `.pth` that is there; see `load_ram`.
        device: where to compute, in float32.
        threshold: floor in [0, 1] under the labels' own thresholds; 0 leaves them as they are.
        model_batch_size: images looked at together, always as many; see `models.batches`.
    """

    def __init__(self, checkpoint: str | Path, *, device: str, threshold: float, model_batch_size: int = 1) -> None:
        folder = Path(checkpoint)
        for name in ("tag_list.txt", "thresholds.txt"):
            if not (folder / name).is_file():
                raise UsageError(f"{folder}: no {name}; a RAM checkpoint has weights, tag_list.txt and thresholds.txt")
        self._model = load_ram(_weights(folder)).to(device)
        self._labels = (folder / "tag_list.txt").read_text(encoding="utf-8").splitlines()
        own = [float(line) for line in (folder / "thresholds.txt").read_text().split()]
        if not len(self._labels) == len(own) == self._model.config.ncls:
            raise UsageError(
                f"{folder}: {self._model.config.ncls} classes in the weights, {len(self._labels)} labels in "
                f"tag_list.txt and {len(own)} in thresholds.txt; they must come from the same release"
            )
        self._thresholds = torch.tensor(own).clamp(min=threshold)
        self._device = device
        self._model_batch_size = model_batch_size

    @torch.inference_mode()
    def tag(self, images: Sequence[Image]) -> list[list[Tag]]:
        side = self._model.config.img
        pixels = [preprocess(image, side) for image in images]
        return in_full_batches(pixels, self._model_batch_size, self._tag, torch.zeros(3, side, side))

    def _tag(self, pixels: list[Tensor]) -> Iterator[list[Tag]]:
        return map(self._tags, self._model(torch.stack(pixels).to(self._device)).sigmoid().cpu())

    def _tags(self, confidence: Tensor) -> list[Tag]:
        """What the confidence (ncls,) of one image says."""
        found = (confidence > self._thresholds).nonzero()[:, 0]
        found = found[confidence[found].argsort(descending=True, stable=True)]
        return [Tag(label=self._labels[i], confidence=round(confidence[i].item(), 4)) for i in found.tolist()]


def preprocess(image: Image, side: int) -> Tensor:
    """Squash to (3, side, side), bilinear, and normalise as ImageNet."""
    small = image.convert("RGB").resize((side, side), Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def load_ram(file: Path) -> Ram:
    """Read weights under their published names; float32, for inference.

    A `.safetensors` file says its `RamConfig` in the metadata, as JSON under "config". That of the published `.pth` is
    read off the shapes, and the captioner that it also holds is passed over.

    Raises:
        UsageError: a weight is missing, or in a `.safetensors` one of the recognising parts has no place in the model.
    """
    state, config = _published(file) if file.suffix == ".pth" else _converted(file)
    model = Ram(config)
    places = {key: published_name(key) for key in model.state_dict()}
    given = {key for key in state if _NEEDED.match(key) and not _DERIVED.search(key)}
    wanted = set(places.values())
    missing, unexpected = sorted(wanted - given), sorted(given - wanted)
    if missing or (
        unexpected and file.suffix != ".pth"
    ):  # sizes that are read off the weights cannot disagree with them
        raise UsageError(f"{file}: not the weights of its configuration; missing {missing}, unexpected {unexpected}")
    model.load_state_dict({key: _own_part(key, state[name]).float() for key, name in places.items()})
    return model.eval()


def save_ram(model: Ram, file: Path, dtype: torch.dtype) -> None:
    """Write what `load_ram` reads."""
    parts: dict[str, list[Tensor]] = {}
    for key, value in model.state_dict().items():  # query, key and value of an attention follow each other
        parts.setdefault(published_name(key), []).append(value.to(dtype))
    config = json.dumps(vars(model.config))
    save_file({key: torch.cat(value) for key, value in parts.items()}, file, metadata={"config": config})


def convert(file: Path, target: Path) -> None:
    """Write to `target`, in safetensors, what recognition needs of a published `.pth`, bit for bit.

    Raises:
        UsageError: as `load_ram`.
    """
    save_ram(load_ram(file), target, torch.float32)


def _weights(folder: Path) -> Path:
    if (converted := folder / "model.safetensors").is_file():
        return converted
    published = sorted(folder.glob("*.pth"))
    if len(published) != 1:
        raise UsageError(f"{folder}: no model.safetensors, and {len(published)} .pth files instead of one")
    return published[0]


def _converted(file: Path) -> tuple[dict[str, Tensor], RamConfig]:
    with safe_open(file, "pt") as opened:
        config = (opened.metadata() or {}).get("config")
        if config is None:
            raise UsageError(f"{file}: no 'config' in the metadata; this is not a RAM checkpoint")
        state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # not a mapping
    return _renamed(state), RamConfig(**json.loads(config))


def _published(file: Path) -> tuple[dict[str, Tensor], RamConfig]:
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # reads only what is used of it
        state = _renamed(loaded["model"])
        return state, _config(state)
    except (KeyError, TypeError, RuntimeError, UnpicklingError) as error:
        raise UsageError(f"{file}: not a RAM checkpoint ({first_line(error)})") from None


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the prefix that the parts of the label decoder have in the code; older files say `vision_multi`."""
    return {re.sub(r"^vision_multi\.", "tagging_head.", key): value for key, value in state.items()}


def _config(state: Mapping[str, Tensor]) -> RamConfig:
    """The sizes that weights have; a Swin keeps a mask for each window of a block, from which follows its input."""
    depths: list[int] = []
    heads: list[int] = []
    while (name := f"visual_encoder.layers.{len(depths)}.blocks") + ".0.norm1.weight" in state:
        depths.append(sum(bool(re.fullmatch(rf"{re.escape(name)}\.\d+\.norm1\.weight", key)) for key in state))
        bias = state[f"{name}.0.attn.relative_position_bias_table"]
        heads.append(bias.shape[1])
    win = (math.isqrt(len(state["visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table"])) + 1) // 2
    embed, _, patch, _ = state["visual_encoder.patch_embed.proj.weight"].shape
    windows = math.isqrt(len(state["visual_encoder.layers.0.blocks.1.attn_mask"]))
    ncls, proj = state["label_embed"].shape
    return RamConfig(
        img=patch * win * windows,
        embed=embed,
        depths=depths,
        heads=heads,
        win=win,
        vw=state["image_proj.weight"].shape[1],
        hid=len(state["wordvec_proj.weight"]),
        inter=len(state["tagging_head.encoder.layer.0.intermediate.dense.weight"]),
        ncls=ncls,
        proj=proj,
    )


def published_name(key: str) -> str:
    """The published checkpoint's name of a weight of `Ram`; query, key and value of a Swin attention share one."""
    prefix, _, rest = key.partition(".")
    if prefix != "visual_encoder":
        return key
    for pattern, replacement in _PUBLISHED:
        rest = re.sub(f"^{pattern}", replacement, rest)
    return f"{prefix}.{rest}"


def _own_part(key: str, published: Tensor) -> Tensor:
    """The third of a joint query-key-value weight that belongs to `key`, or all of any other weight."""
    match = re.search(r"\.attention\.([qkv])_proj\.", key)
    return published.chunk(3)["qkv".index(match[1])].contiguous() if match else published
