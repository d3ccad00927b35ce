"""From the names in a preset to loaded models; the only place that imports an adapter, and only when it is needed."""

# mypy: disable-error-code="no-any-return"
# An adapter is named by a string, so its type is known only to the preset.

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from realign_cli import presets
from realign_cli.errors import RealignError, UsageError
from realign_cli.presets import Preset

if TYPE_CHECKING:
    from realign_cli import roles, settings

_WEIGHTS = Path(__file__).parent / "tinyworld" / "weights"
PACKAGE = "package:"
_OURS = "realign_cli."
T = TypeVar("T")
log = logging.getLogger(__name__)
_REWARD = "reward-"
_CONVERTERS = {"ram": "realign_cli.models.vision.ram:convert"}


class Models:
    """The models of a preset, one instance of each, loaded when first used. Satisfies `roles.Models`."""

    def __init__(self, preset: Preset, device: str = "auto") -> None:
        self.preset = preset
        self._device = device
        self._judges: dict[str, roles.Judge] = {}

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

    @cached_property
    def generator(self) -> roles.Generator:
        return self._load("generator")

    @cached_property
    def captioner(self) -> roles.Captioner:
        return self._load("captioner")

    @cached_property
    def text_encoder(self) -> roles.TextEncoder:
        return self._load("text_encoder")

    @cached_property
    def tagger(self) -> roles.Tagger:
        return self._load("tagger")

    @cached_property
    def scorer(self) -> roles.Scorer:
        return self._load("scorer", on_device=False)  # runs on no device: it must not cost an import of torch

    @cached_property
    def detector(self) -> roles.Detector:
        return self._load("detector")

    @cached_property
    def mask_model(self) -> roles.MaskModel:
        return self._load("mask_model")

    @cached_property
    def modulation(self) -> settings.Modulation:
        """Section `refine` of the preset.

        Raises:
            UsageError: a key is missing, unknown or of another type.
        """
        from realign_cli.settings import Modulation

        return self._checked(Modulation, "refine")

    @cached_property
    def training(self) -> settings.Training:
        """Section `train` of the preset.

        Raises:
            UsageError: a key is missing, unknown, of another type or out of range.
        """
        from realign_cli.settings import Training

        return self._checked(Training, "train")

    @cached_property
    def features(self) -> roles.FeatureExtractor:
        return self._load("fid", apart=("reference",))

    def trainee(self, **options: Any) -> roles.Trainee:
        """A generator made trainable, apart from `generator`; options as of `Trainee`.

        Raises:
            UsageError: the preset has no trainee.
        """
        adapter = self.preset.section("trainee").get("adapter", "")
        kind = _import(adapter, f"preset '{self.preset.name}': [trainee] adapter {adapter!r}")
        return kind(self._load("generator", full_precision=True), **options)

    def reward(self, name: str, **options: Any) -> roles.Reward:
        """The reward that section `reward-NAME` describes, or `module:Class` of the user's own."""
        if ":" in name:
            return _import(name, f"--reward {name}")(self, **options)
        if f"{_REWARD}{name}" not in self.preset.sections:
            known = [key.removeprefix(_REWARD) for key in self.preset.sections if key.startswith(_REWARD)]
            raise UsageError(
                f"preset '{self.preset.name}' has no reward '{name}'; there are {', '.join(known)}, or module:Class"
            )
        settings = self._located(f"{_REWARD}{name}")
        adapter = settings.pop("adapter", "")
        return _import(adapter, f"[{_REWARD}{name}] adapter {adapter!r}")(self, **settings, **options)

    def judge(self, name: str) -> roles.Judge:
        if name not in self._judges:
            self._judges[name] = self._load(name)
        return self._judges[name]

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
            if trained := presets.trained_manifest(section):
                section["trained_sha256"] = hashlib.sha256(trained.read_bytes()).hexdigest()
            described[name] = section
        return {"preset": self.preset.name, "settings": described}

    def _checked(self, kind: type[T], section: str) -> T:
        from pydantic import ValidationError

        try:
            return kind(**self.preset.section(section))
        except ValidationError as error:
            raise UsageError(
                f"preset '{self.preset.name}': {presets.complaints(error, section)}; presets/tiny.toml shows the keys"
            ) from None

    def _load(self, role: str, *, on_device: bool = True, apart: Sequence[str] = (), **more: Any) -> Any:
        """The model of a role; the settings named `apart` are not the model's."""
        options = {key: value for key, value in self._located(role).items() if key not in apart} | more
        adapter, checkpoint = options.pop("adapter", ""), options.pop("checkpoint", "")
        place = f"preset '{self.preset.name}': [{role}] adapter {adapter!r}"
        factory = _import(adapter, place)
        try:
            inspect.signature(factory).bind(checkpoint, device="", **options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{place}: {error}") from None
        device = self.device if on_device else None
        try:
            return factory(checkpoint, device=device, **options)
        except RealignError:
            raise
        except Exception as error:  # of a damaged checkpoint, libraries raise what they come upon first
            log.debug("%s", place, exc_info=True)
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UsageError(
                f"{place}: cannot load {checkpoint or 'it'} ({type(error).__name__}: {reason}); check that the "
                "checkpoint is whole and that it is one of this adapter; -v shows where it failed"
            ) from None

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


def _import(adapter: str, place: str) -> Any:
    """The class that "module:Class" names."""
    module, _, name = adapter.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{place}: {error}") from None


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
