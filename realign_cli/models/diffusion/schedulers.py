"""The samplers by which images are drawn, by the names that programs with a user interface give them."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from realign_cli.errors import UsageError

# One evaluation of the U-Net a step, and no noise but the first: an image is decided by its seed.
_DETERMINISTIC: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),  # its habit of clipping x_0 to [-1, 1] is for pixels
    "euler": (EulerDiscreteScheduler, {}),
    "dpm++2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}),
    "dpm++2m-karras": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "unipc": (UniPCMultistepScheduler, {}),
}
_NOISY = ("ddpm", "dpm++2m-sde", "dpm++2s-a", "dpm++sde", "dpm2-a", "euler-a", "lcm", "tcd")
_PREDICTIONS = ("epsilon", "v_prediction", "sample")  # what DDIM can step by


def scheduler(name: str, published: Any) -> Any:
    """The scheduler of that name, for the noise and the prediction that a `published` one is configured for.

    Raises:
        UsageError: it is unknown, it adds noise on the way, or the network predicts what it cannot step by.
    """
    if name in _NOISY:
        raise UsageError(
            f"generator.scheduler {name} adds noise at every step, and an image is refined from its first noise alone: "
            f"choose {', '.join(_DETERMINISTIC)}"
        )
    if name not in _DETERMINISTIC:
        raise UsageError(f"generator.scheduler {name}: there are {', '.join(_DETERMINISTIC)}")
    predicted = getattr(published.config, "prediction_type", None)
    if predicted not in _PREDICTIONS:
        raise UsageError(
            f"the generator's prediction_type is {predicted}; this program knows {', '.join(_PREDICTIONS)}"
        )
    if predicted == "sample" and name != "ddim":
        raise UsageError(f"generator.scheduler {name}: with the prediction_type sample, choose ddim")
    kind, options = _DETERMINISTIC[name]
    return kind.from_config(published.config, **options)
