"""A LoRA of a generator, as diffusers saves and loads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

from realign_cli.errors import UsageError, first_line
from realign_cli.models.loading import silent

LORA = "pytorch_lora_weights.safetensors"
_LORA_WEIGHT = re.compile(r"lora[._](A|B|down|up)\.weight$")  # as diffusers, peft and kohya name them


def load_lora(pipeline: Any, place: str | Path, adapter: str = "lora") -> None:
    """Load a LoRA, a file or the folder of one, in the form of diffusers, peft or kohya.

    Raises:
        UsageError: it cannot be read, is empty, or has weights that have no place in this network.
    """
    file = Path(place) / LORA if Path(place).is_dir() else Path(place)
    try:
        with safe_open(file, "pt") as opened:
            wanted = sum(bool(_LORA_WEIGHT.search(key)) for key in opened.keys())  # noqa: SIM118  # not a mapping
        with silent():
            pipeline.load_lora_weights(
                file.parent, adapter_name=adapter, weight_name=file.name, use_safetensors=True, local_files_only=True
            )
    except Exception as error:  # of a file that does not fit, libraries raise what they come upon first
        raise UsageError(
            f"{file}: no LoRA of this generator ({first_line(error)}); give one that was trained on it"
        ) from None
    parts = [part for name in ("unet", "text_encoder", "text_encoder_2") if (part := getattr(pipeline, name, None))]
    loaded = sum("lora_" in name and f".{adapter}." in name for part in parts for name, _ in part.named_parameters())
    if not wanted or loaded < wanted:
        raise UsageError(
            f"{file}: no LoRA of this generator ({loaded} of its {wanted} weights have a place in it); give one that "
            "was trained on it"
        )
