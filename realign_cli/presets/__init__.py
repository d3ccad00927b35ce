"""Presets: which model plays each role, and the numbers of the method. Data only; nothing is loaded here.

A preset is a TOML file with one section per role or method part. The keys that a section has are the keys that can be
set; a value keeps the type it has in the file. A section NAME-CHOICE, such as train-nft, says what is other in section
NAME where that is chosen. What has to be fetched for it is listed under `[[checkpoints]]`. With `base = "NAME"` it is
that preset with what the file says otherwise.
"""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from realign_cli.errors import UsageError
from realign_cli.presets.schema import FETCHED, Checkpoint, File, PresetFile, describe_errors
from realign_cli.presets.secrets import find_secret

__all__ = [
    "FETCHED",
    "Checkpoint",
    "File",
    "Preset",
    "describe_errors",
    "load",
    "names",
    "trained_manifest",
    "with_model",
]

_PIPELINE, _LORA, _MANIFEST = "model_index.json", "pytorch_lora_weights.safetensors", "manifest.json"
_SIZE = "generator.size"  # a number, or WIDTHxHEIGHT as it is
_MOVED = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preset:
    """A resolved preset: `sections` maps a role or a part of the method to its settings."""

    name: str
    batch_size: int
    needs_gpu: bool
    sections: Mapping[str, Mapping[str, Any]]
    checkpoints: tuple[Checkpoint, ...] = ()

    def section(self, name: str) -> Mapping[str, Any]:
        if name not in self.sections:
            raise UsageError(f"preset '{self.name}' has no [{name}]; --preset tiny has every role")
        return self.sections[name]

    def users(self, checkpoint: Checkpoint) -> list[str]:
        """The sections that load from it."""
        return [name for name, section in self.sections.items() if checkpoint.name in section.values()]

    def checkpoint(self, name: str) -> Checkpoint | None:
        return next((one for one in self.checkpoints if one.name == name), None)

    def variant(self, name: str, choice: str) -> Mapping[str, Any]:
        """Section `name`, with what section `name-choice` changes of it."""
        return {**self.section(name), **self.sections.get(f"{name}-{choice}", {})}

    def with_section(self, name: str, settings: Mapping[str, Any]) -> Preset:
        """The preset with settings of one section changed or added, which hold for its variants too."""
        sections = {key: dict(section) for key, section in self.sections.items()}
        _forget_in_variants(sections, name, settings)
        return replace(self, sections=sections | {name: {**self.section(name), **settings}})

    def with_adapters(self, adapters: Iterable[str]) -> Preset:
        """The preset with a section for each adapter "module:Class", which is named after it and has no settings."""
        return replace(self, sections={**self.sections, **{name: {"adapter": name} for name in adapters}})


def names() -> list[str]:
    """The names of the packaged presets."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def load(name: str, overrides: Iterable[str] = (), backend: str | None = None) -> Preset:
    """Read a packaged preset or a TOML file and apply overrides "section.key=value".

    A backend is a packaged file whose sections take the place of the preset's before the overrides.

    Raises:
        UsageError: no such preset or key, with the nearest name, or a value of another type or out of range; or a
            secret, which every folder that a run makes would tell on.
    """
    data = _read(name)
    if backend:
        data |= tomllib.loads((_folder() / "backends" / f"{backend}.toml").read_text())
    for override in overrides:
        _apply(data, override, name)
    if place := find_secret(data):
        raise UsageError(
            f"preset '{name}': {place} is a secret, and presets are copied into run.json; put it into the "
            "environment, such as OPENAI_API_KEY"
        )
    try:
        checked = PresetFile.model_validate(data)
    except ValidationError as error:
        raise UsageError(
            f"--preset {name}: {describe_errors(error)}; presets/sd15.toml shows sections and checkpoints"
        ) from None
    sections = {key: value for key, value in data.items() if isinstance(value, dict)}
    for section in sections.values():
        if (moved := section.get("checkpoint")) in _MOVED:
            section["checkpoint"] = _MOVED[moved]
            log.warning("%s is no longer on the hub; its mirror %s is used", moved, _MOVED[moved])
    return Preset(Path(name).stem, checked.batch_size, checked.needs_gpu, sections, checked.checkpoints)


def with_model(preset: Preset, model: Path | None) -> Preset:
    """The preset with the generator that `realign train` left in the folder `model`, if there is one.

    Raises:
        UsageError: there is none, or it is a LoRA of another generator.
    """
    if model is None:
        return preset
    generator = preset.section("generator")
    if (model / _PIPELINE).is_file():
        trained: dict[str, Any] = {"checkpoint": str(model)}
    elif (model / _LORA).is_file():
        trained = {"lora": str(model)}
    else:
        raise UsageError(
            f"--model {model}: neither {_LORA} nor {_PIPELINE} in it; give the folder of a finished 'realign train', "
            "or one of its checkpoints/"
        )
    if "lora" in trained and generator.get("lora"):
        raise UsageError(
            f"--model {model}: a LoRA, and generator.lora {generator['lora']} is another; give one of them"
        )
    if "lora" in trained and (manifest := model / _MANIFEST).is_file():
        base = _base(manifest)
        if base != generator["checkpoint"]:
            raise UsageError(f"--model {model}: a LoRA of {base}; preset '{preset.name}' has {generator['checkpoint']}")
    return preset.with_section("generator", trained)


def _base(manifest: Path) -> str:
    """The checkpoint of the generator to which the LoRA beside `manifest` belongs."""
    try:
        base = json.loads(manifest.read_text())["config"]["settings"]["generator"]["checkpoint"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        base = None
    if not isinstance(base, str):
        raise UsageError(
            f"{manifest}: not as 'realign train' writes it, so that nothing says which generator the LoRA beside it "
            "belongs to; move the file away if you know that it is the preset's"
        )
    return base


def trained_manifest(section: Mapping[str, Any]) -> Path | None:
    """The file with the SHA-256 sums of what a section takes from `realign train`, if it does."""
    folder = section.get("lora") or section.get("checkpoint")
    manifest = Path(str(folder)) / _MANIFEST
    return manifest if folder and manifest.is_file() else None


def _folder() -> Any:
    return resources.files(__name__)


def _read(name: str) -> dict[str, Any]:
    try:
        if name.endswith(".toml"):
            text = Path(name).read_text(encoding="utf-8")
        else:
            if name not in names():
                near = f"no such preset{_hint(name, names())}; there are {', '.join(names())}"
                raise UsageError(f"--preset {name}: {near}")
            text = (_folder() / f"{name}.toml").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"--preset {name}: no such file") from None
    except OSError as error:
        raise UsageError(f"--preset {name}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"--preset {name}: not UTF-8") from None
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--preset {name}: not TOML ({error})") from None
    if (base := data.pop("base", None)) is None:
        return data
    if base not in names():
        raise UsageError(f"--preset {name}: its base is {base!r}; there are {', '.join(names())}")
    return _laid_over(_read(base), data)


def _laid_over(base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """A preset with what another says otherwise: keys of sections one by one, and further checkpoints."""
    merged = dict(base)
    for name, value in data.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            merged[name] = base[name] | value
        elif name == "checkpoints" and isinstance(value, list):
            merged[name] = value + base.get(name, [])
        else:
            merged[name] = value
    return merged


def _apply(data: dict[str, Any], override: str, name: str) -> None:
    path, equals, text = override.partition("=")
    known = {f"{s}.{k}": (s, k) for s, part in data.items() if isinstance(part, dict) for k in part}
    if not equals:
        raise UsageError(f"--set {override}: write section.key=value, such as generator.steps=20")
    if path not in known:
        raise UsageError(f"--set {path}: preset '{name}' has no such key{_hint(path, known)}")
    section, key = known[path]
    old = data[section][key]
    try:
        new = text if isinstance(old, str) else tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        new = text if path == _SIZE else None
    if isinstance(old, float) and type(new) is int:
        new = float(new)
    if type(new) is not type(old) and not (path == _SIZE and new == text):
        raise UsageError(f"--set {override}: {path} takes a {type(old).__name__}, such as {old!r}")
    data[section][key] = new
    _forget_in_variants(data, section, [key])


def _forget_in_variants(sections: Mapping[str, Any], name: str, keys: Iterable[str]) -> None:
    """What is set of a section holds whatever its variants (`Preset.variant`) say."""
    for other, section in sections.items():
        if other.startswith(f"{name}-"):
            for key in keys:
                section.pop(key, None)


def _hint(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
