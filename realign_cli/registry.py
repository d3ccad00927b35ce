"""From the names in a preset to loaded models; the only place that imports an adapter, and only when it is needed."""

# mypy: disable-error-code="no-any-return"
# An adapter is named by a string, so its type is known only to the preset.

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from realign_cli import presets, roles
from realign_cli.errors import RealignError, UsageError, first_line

if TYPE_CHECKING:
    from realign_cli import settings
    from realign_cli.presets import Preset

_WEIGHTS = Path(__file__).parent / "tinyworld" / "weights"
PACKAGE = "package:"
_OURS = "realign_cli."
T = TypeVar("T")
log = logging.getLogger(__name__)
_REWARD, _TRAINEE = "reward-", "trainee"
_ABSENT = object()
_CONVERTERS = {"ram": "realign_cli.models.vision.ram:convert"}


class Models(roles.Models):
    """The models of a preset, one instance of each, loaded when first used."""

    def __init__(self, preset: Preset, device: str = "auto") -> None:
        self.preset = preset
        self._device = device
        self._metrics: dict[str, roles.ImageTextMetric] = {}

    @cached_property
    def device(self) -> str:
        if self._device == "cpu":
            return "cpu"
        import torch

        if torch.cuda.is_available():
            return "cuda"
        if self._device == "cuda":
            raise RealignError("--device cuda: no GPU is present; without --device the models run on the CPU")
        if self.preset.needs_gpu:
            raise RealignError(
                f"preset '{self.preset.name}' wants a GPU and none is present; --preset tiny runs on a CPU without a "
                "download (--device cpu insists)"
            )
        return "cpu"

    @property
    def steps(self) -> int | None:
        return self.preset.section("generator").get("steps")

    def load(self, name: str) -> Any:
        role = roles.ROLES[name]
        return self._adapter(role.section, on_device=role.on_device, apart=role.apart)

    @cached_property
    def refine_method(self) -> settings.RefineMethod:
        """The method that section `refine` of the preset names.

        Raises:
            UsageError: it names none, or one that is unknown.
        """
        from realign_cli.settings import Refining

        return self._checked(Refining, "refine").method

    @cached_property
    def region_control(self) -> settings.RegionControl:
        """The numbers of the method that refines images: the section of its name.

        Raises:
            UsageError: a key is missing, unknown or of another type.
        """
        from realign_cli.settings import Dense, Modulation, Regional

        if self.refine_method == "modulation":
            return self._checked(Modulation, "modulation")
        if self.refine_method == "dense":
            return self._checked(Dense, "dense")
        return self._checked(Regional, "regional")

    @cached_property
    def phrase_control(self) -> settings.PhraseControl | None:
        """The numbers of the method that generates images: the section of the name that section `generate` gives.

        None is plain generation, also of a preset without that section.

        Raises:
            UsageError: a key is missing, unknown or of another type.
        """
        from realign_cli.settings import Attend, Generating, Predicated, Structure, SynGen

        method = self._checked(Generating, "generate").method if "generate" in self.preset.sections else "plain"
        if method == "plain":
            return None
        if method not in self.preset.sections:
            raise UsageError(
                f"preset '{self.preset.name}' has no [{method}], which the method needs; tiny and sd15 have them all"
            )
        if method == "structure":
            return self._checked(Structure, method)
        if method == "attend":
            return self._checked(Attend, method)
        if method == "syngen":
            return self._checked(SynGen, method)
        return self._checked(Predicated, method)

    @cached_property
    def loop(self) -> settings.Loop:
        """Section `loop` of the preset.

        Raises:
            UsageError: a key is missing, unknown, of another type or out of range.
        """
        from realign_cli.settings import Loop

        return self._checked(Loop, "loop")

    @cached_property
    def benching(self) -> settings.Benching:
        """Section `bench` of the preset.

        Raises:
            UsageError: a key is missing, unknown, of another type or out of range.
        """
        from realign_cli.settings import Benching

        return self._checked(Benching, "bench")

    @cached_property
    def training(self) -> settings.Training:
        """Section `train` of the preset, with what section `train-ESTIMATOR` changes of it.

        Raises:
            UsageError: a key is missing, unknown, of another type or out of range.
        """
        from realign_cli.settings import Training

        estimator = self.preset.section("train").get("estimator", "")
        return self._checked(Training, "train", self.preset.variant("train", estimator))

    def trainable_generator(self, **options: Any) -> roles.TrainableGenerator:
        """A generator made trainable, apart from `generator`; options as of `TrainableGenerator`.

        Raises:
            UsageError: the preset has no section `trainee`.
        """
        adapter = self.preset.section(_TRAINEE).get("adapter", "")
        kind = _import(adapter, _place(self.preset, _TRAINEE))
        return kind(self._adapter("generator", full_precision=True), **options)

    def reward(self, name: str, **options: Any) -> roles.Reward:
        """The reward that section `reward-NAME` describes, or `module:Class` of the user's own."""
        if ":" in name:
            return _built(_import(name, f"--reward {name}"), f"--reward {name}", self, **options)
        section = f"{_REWARD}{name}"
        if section not in self.preset.sections:
            known = [key.removeprefix(_REWARD) for key in self.preset.sections if key.startswith(_REWARD)]
            raise UsageError(
                f"preset '{self.preset.name}' has no reward '{name}'; there are {', '.join(known)}, or module:Class"
            )
        settings = self._located(section)
        place = _place(self.preset, section)
        return _built(_import(settings.pop("adapter", ""), place), place, self, **settings, **options)

    def metric(self, name: str) -> roles.ImageTextMetric:
        if name not in self._metrics:
            found = self._adapter(name)
            missing = [part for part in roles.parts(roles.ImageTextMetric) if not _has(found, part)]
            if missing:
                raise UsageError(f"{_place(self.preset, name)} is no metric: it has no {', '.join(missing)}")
            self._metrics[name] = found
        return self._metrics[name]

    def describe(self, sections: Iterable[str]) -> dict[str, Any]:
        """Everything in the preset that decides the result of a run that uses `sections`, with weight hashes.

        An adapter of this package is told by its class, for where that lies here decides nothing.
        """
        described = {}
        for name in sections:
            section = dict(self.preset.section(name))
            if section.get("adapter", "").startswith(_OURS):
                section["adapter"] = section["adapter"].partition(":")[2]
            if str(section.get("checkpoint", "")).startswith(PACKAGE):
                section["sha256"] = _digest(section["checkpoint"].removeprefix(PACKAGE))
            if published := self.preset.checkpoint(section.get("checkpoint", "")):
                section |= _identity(published)
            for key in ("checkpoint", "lora"):
                if (file := Path(str(section.get(key) or ""))).is_file():
                    with file.open("rb") as opened:
                        section[f"{key}_sha256"] = hashlib.file_digest(opened, "sha256").hexdigest()
            if trained := presets.trained_manifest(section):
                section["trained_sha256"] = hashlib.sha256(trained.read_bytes()).hexdigest()
            described[name] = section
        return {"preset": self.preset.name, "settings": described}

    def _checked(self, kind: type[T], section: str, settings: Mapping[str, Any] | None = None) -> T:
        from pydantic import ValidationError

        try:
            return kind(**(self.preset.section(section) if settings is None else settings))
        except ValidationError as error:
            raise UsageError(
                f"preset '{self.preset.name}': {presets.describe_errors(error, section)}; presets/tiny.toml shows "
                "the keys"
            ) from None

    def _adapter(self, section: str, *, on_device: bool = True, apart: Iterable[str] = (), **more: Any) -> Any:
        """The model of a section; the settings named `apart` are not the model's."""
        options = {key: value for key, value in self._located(section).items() if key not in apart} | more
        place = _place(self.preset, section)
        factory = _import(options.pop("adapter", ""), place)
        checkpoint = options.pop("checkpoint", "")
        return _built(factory, place, checkpoint, device=self.device if on_device else None, **options)

    def _located(self, section: str) -> dict[str, Any]:
        """The settings of a section, with its checkpoint as a folder or as a hub id and its revision."""
        settings = dict(self.preset.section(section))
        checkpoint = settings.get("checkpoint", "")
        published = self.preset.checkpoint(checkpoint)
        if checkpoint.startswith(PACKAGE):
            settings["checkpoint"] = str(packaged(checkpoint.removeprefix(PACKAGE)))
        elif checkpoint.startswith(presets.FETCHED):
            if published is None:
                raise UsageError(f"preset '{self.preset.name}': no {checkpoint} among its checkpoints")
            if published.missing:
                raise RealignError(
                    f"{published.folder}: no {published.missing[0].name}; fetch it with 'realign download --preset "
                    f"{self.preset.name}', or use '--preset tiny', which needs no download"
                )
            settings["checkpoint"] = str(published.folder)
        elif published and published.revision:
            settings.setdefault("revision", published.revision)
        return settings


def convert(model: str, source: Path, target: Path) -> None:
    """Write a published checkpoint of `model` in the form that loads fastest."""
    _import(_CONVERTERS[model], model)(source, target)


def _identity(checkpoint: presets.Checkpoint) -> dict[str, str]:
    """What decides the weights of a published checkpoint: the commit, as far as it is known, or its files' sums."""
    if checkpoint.files:
        return {"sha256": hashlib.sha256("".join(file.sha256 for file in checkpoint.files).encode()).hexdigest()}
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=checkpoint.name, repo_type="model")
    branch = storage / "refs" / checkpoint.revision
    return {"revision": branch.read_text().strip() if branch.is_file() else checkpoint.revision}


def metric_sections(preset: Preset) -> list[str]:
    """The sections whose adapters may be metrics: those that play no role and belong to no training."""
    taken = {role.section for role in roles.ROLES.values()} | {_TRAINEE}
    return [
        name
        for name, section in preset.sections.items()
        if section.get("adapter") and name not in taken and not name.startswith(_REWARD)
    ]


def is_metric(preset: Preset, name: str) -> bool:
    """Whether a section is a metric, because its adapter can measure.

    Raises:
        UsageError: the adapter cannot be imported.
    """
    if name not in metric_sections(preset):
        return False
    kind = _import(preset.section(name)["adapter"], _place(preset, name))
    return all(callable(getattr(kind, method, None)) for method in ("measure", "truncated"))


def _place(preset: Preset, section: str) -> str:
    """What a message says of where an adapter is named."""
    adapter = preset.section(section).get("adapter", "")
    return f"--metrics {section}" if section == adapter else f"preset '{preset.name}': [{section}] adapter {adapter!r}"


def _import(adapter: str, place: str) -> Any:
    """The class that "module:Class" names.

    Raises:
        UsageError: there is none, or the module raises as it is imported.
    """
    module, _, name = adapter.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{place}: {error}") from None
    except Exception as error:  # a module of the user's own may raise anything
        log.debug("%s", place, exc_info=True)
        raise UsageError(
            f"{place}: cannot import {module} ({type(error).__name__}: {first_line(error)}); -v shows where it failed"
        ) from None


def _built(factory: Callable[..., T], place: str, source: object, **options: Any) -> T:
    """What `factory` makes of a checkpoint, or of models.

    Raises:
        UsageError: it takes other arguments, or raises.
    """
    try:
        inspect.signature(factory).bind(source, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{place}: {error}") from None
    try:
        return factory(source, **options)
    except RealignError:
        raise
    except Exception as error:  # of a damaged checkpoint, libraries raise what they come upon first
        log.debug("%s", place, exc_info=True)
        what, remedy = "build it", ""
        if isinstance(source, str) and source:
            what, remedy = f"load {source}", "check that the checkpoint is whole and that it is one of this adapter; "
        raise UsageError(
            f"{place}: cannot {what} ({type(error).__name__}: {first_line(error)}); {remedy}-v shows where it failed"
        ) from None


def _has(model: object, part: str) -> bool:
    """Without asking for the value, which a property may take long to find."""
    return inspect.getattr_static(model, part, _ABSENT) is not _ABSENT


def packaged(name: str) -> Path:
    """The folder of packaged weights, after its files were compared with their SHA-256 sums."""
    for relative, expected in _sums(name).items():
        path = _WEIGHTS / relative
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise RealignError(f"{path}: missing or damaged; install realign again")
    return _WEIGHTS / name


def _digest(name: str) -> str:
    return hashlib.sha256("".join(_sums(name).values()).encode()).hexdigest()


def _sums(name: str) -> dict[str, str]:
    listing = _WEIGHTS / "SHA256SUMS"
    if not listing.is_file():
        raise RealignError(f"{listing}: missing; install realign again")
    lines = listing.read_text().splitlines()
    sums = {path: digest for digest, path in (line.split("  ", 1) for line in lines) if path.startswith(f"{name}/")}
    if not sums:
        raise UsageError(f"no packaged weights named '{name}'")
    return sums
