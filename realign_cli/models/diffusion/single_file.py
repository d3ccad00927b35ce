"""A checkpoint in one file, as programs with a user interface keep it, as a pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from safetensors import safe_open

from realign_cli.errors import UsageError, first_line
from realign_cli.models.diffusion.architectures import ARCHITECTURES, configuration, tokenizers
from realign_cli.models.loading import silent

_SUFFIX = ".safetensors"
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
_DECODER = "first_stage_model.decoder.conv_in.weight"
_REFINER = "conditioner.embedders.0.model.text_projection"
_PREDICTS_V = "v_pred"  # an empty tensor by which files of XL say so
_TEXT = {  # what a text encoder has, and whose it is
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": "sd1",
    "cond_stage_model.model.token_embedding.weight": "sd2",
    "conditioner.embedders.1.model.positional_embedding": "sdxl",
}
_PRESETS = {"sd1": "sd15", "sd2": "sd15", "sdxl": "sdxl"}


def is_single_file(checkpoint: str) -> bool:
    """Whether a checkpoint is no folder and no hub id."""
    path = Path(checkpoint)
    return path.is_file() or path.suffix in (_SUFFIX, *_PICKLES)


def load_single_file(kind: Any, checkpoint: str, config: str, dtype: Any, without: Mapping[str, Any]) -> Any:
    """The pipeline of class `kind` with the weights of a `.safetensors` file, converted by diffusers.

    `config` is a name in `ARCHITECTURES`, or a folder or hub id whose configuration and tokenizers fit; "" is the
    architecture that the file shows.

    Raises:
        UsageError: it is no such file, not of this kind of Stable Diffusion, or lacks some of its weights.
    """
    found = _recognised(Path(checkpoint), configured=bool(config))
    preset = "sdxl" if "XL" in kind.__name__ else "sd15"
    if _PRESETS[found] != preset:
        raise UsageError(f"{checkpoint}: for another kind of generator; use --preset {_PRESETS[found]}")
    name = config or found
    if name == "sd2" and not config:
        raise UsageError(
            f"{checkpoint}: a Stable Diffusion 2.x, which does not say what it predicts; --set generator.config=sd2 if "
            "it is v, as of 2.1 for 768 pixels, or sd2-base if it is noise"
        )
    with ExitStack() as stack:
        parts: dict[str, Any] = {}
        if name in ARCHITECTURES:
            parts = dict(tokenizers(name))
            config = str(stack.enter_context(configuration(ARCHITECTURES[name], kind.__name__)))
        try:
            with silent():
                return kind.from_single_file(
                    checkpoint,
                    config=config,
                    dtype=dtype,
                    local_files_only=bool(constants.HF_HUB_OFFLINE),
                    **parts,
                    **without,
                )
        except Exception as error:  # of weights that do not fit, the library raises what it comes upon first
            missing = "meta tensor" in str(error)  # which is what it has in their place
            why = "some of them are missing" if missing else first_line(error)
            raise UsageError(
                f"{checkpoint}: not the weights of {name} ({why}); generator.config names another configuration"
            ) from None


def _recognised(file: Path, *, configured: bool) -> str:
    """Which of the architectures it is; 2.x is sd2, whatever it predicts. What it predicts may be `configured`.

    Raises:
        UsageError: it is none of them.
    """
    if file.suffix in _PICKLES:
        raise UsageError(f"{file}: a pickle may run code, and is not read; convert it to {_SUFFIX}")
    try:
        with safe_open(file, "pt") as opened:
            keys = set(opened.keys())
            channels = opened.get_slice(_INPUT).get_shape()[1] if _INPUT in keys else 0
    except Exception as error:
        raise UsageError(f"{file}: not a {_SUFFIX} file ({first_line(error)})") from None
    what = ""
    if any("lora" in key for key in keys) and not channels:
        what = "a LoRA: give it as generator.lora, beside a checkpoint"
    elif not channels:
        what = "no U-Net of Stable Diffusion is in it"
    elif channels == 9:
        what = "for inpainting, which this program does not do; give its text-to-image model"
    elif channels != 4:
        what = f"its U-Net reads {channels} channels; this program draws from text alone, with 4"
    elif _REFINER in keys:
        what = "the refiner of Stable Diffusion XL, which goes on from images; give the base model"
    elif _PREDICTS_V in keys and not configured:
        what = "a Stable Diffusion XL that predicts v; name a folder with its configuration as generator.config"
    elif _DECODER not in keys:
        what = "no autoencoder is in it; give a file with all parts"
    elif not (found := [name for key, name in _TEXT.items() if key in keys]):
        what = "no text encoder is in it; give a file with all parts"
    if what:
        raise UsageError(f"{file}: {what}")
    return found[0]
