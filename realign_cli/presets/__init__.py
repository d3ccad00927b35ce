"""Presets: which model plays each role, and the numbers of the method. Data only; nothing is loaded here.

A preset is a TOML file with one section per role or method part. The keys that a section has are the keys that can be
set; a value keeps the type it has in the file. What has to be fetched for it is listed under `[[checkpoints]]`.
"""

from __future__ import annotations

import json
import logging
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from realign_cli.errors import UsageError

FETCHED = "fetched:"
_SECRET_KEY = re.compile(r"(^|_)(api_?key|access_?key|auth_?token|hf_token|api_?token|password|secret)$", re.I)
_URL_WITH_PASSWORD = re.compile(r"\w+://[^/\s]*@")
_PIPELINE, _LORA, _MANIFEST = "model_index.json", "pytorch_lora_weights.safetensors", "manifest.json"
_MOVED = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
_HUB = "https://huggingface.co"

log = logging.getLogger(__name__)


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class File:
    """A published file: what it is called here, where it is, and the SHA-256 that makes sure that it is the one.

    `instead` names a file that may lie in its place.
    """

    name: str
    url: str
    sha256: str
    instead: str = ""

    @property
    def address(self) -> str:
        """`url`, at the hub that HF_ENDPOINT names if it is of the hub."""
        from huggingface_hub import constants

        return self.url.replace(_HUB, constants.ENDPOINT, 1)


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Checkpoint:
    """What sections of a preset load, and `realign download` fetches.

    `name` is what the sections call it: a hub id, of which `revision` and the files that match `patterns` are meant, or
    "fetched:NAME", the folder of `files`. `gigabytes` are on disk, `loaded` those of the weights as computed with. Of
    the kind "dataset" are the images of COCO 2014 val, of which the reference of [fid] is made.
    """

    name: str
    gigabytes: float
    loaded: float
    licence: str
    revision: str = ""
    patterns: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    home: Literal["hub", "torch"] = "hub"
    kind: Literal["model", "dataset"] = "model"

    @property
    def folder(self) -> Path:
        """Where `files` lie: in HF_HOME, beside what comes from the hub, or where torch's own hub looks."""
        if self.home == "torch":
            import torch

            return Path(torch.hub.get_dir()) / "checkpoints"
        from huggingface_hub import constants

        return Path(constants.HF_HOME) / "realign" / self.name.removeprefix(FETCHED)

    @property
    def missing(self) -> list[File]:
        """The `files` that are not there."""
        return [
            file
            for file in self.files
            if not (self.folder / file.name).is_file() and not (file.instead and (self.folder / file.instead).is_file())
        ]


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

    def with_(self, name: str, settings: Mapping[str, Any]) -> Preset:
        """The preset with settings of one section changed or added."""
        return replace(self, sections={**self.sections, name: {**self.section(name), **settings}})


def names() -> list[str]:
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def load(name: str, overrides: Iterable[str] = (), backend: str | None = None) -> Preset:
    """Read a packaged preset or a TOML file and apply overrides "section.key=value".

    A backend is a packaged file whose sections take the place of the preset's before the overrides.

    Raises:
        UsageError: no such preset or key, with the nearest name, or a value of another type; or a secret, which every
            folder that a run makes would tell on.
    """
    data = _read(name)
    if backend:
        data |= tomllib.loads((_folder() / "backends" / f"{backend}.toml").read_text())
    for override in overrides:
        _apply(data, override, name)
    _refuse_secrets(data, name)
    sections = {key: value for key, value in data.items() if isinstance(value, dict)}
    for section in sections.values():
        if (moved := section.get("checkpoint")) in _MOVED:
            section["checkpoint"] = _MOVED[moved]
            log.warning("%s is no longer on the hub; its mirror %s is used", moved, _MOVED[moved])
    checkpoints = _checkpoints(data.get("checkpoints", []), name)
    return Preset(Path(name).stem, data.get("batch_size", 8), data.get("needs_gpu", False), sections, checkpoints)


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
    if "lora" in trained and (manifest := model / _MANIFEST).is_file():
        base = json.loads(manifest.read_text())["config"]["settings"]["generator"]["checkpoint"]
        if base != generator["checkpoint"]:
            raise UsageError(f"--model {model}: a LoRA of {base}; preset '{preset.name}' has {generator['checkpoint']}")
    return preset.with_("generator", trained)


def trained_manifest(section: Mapping[str, Any]) -> Path | None:
    """The file with the SHA-256 sums of what a section takes from `realign train`, if it does."""
    folder = section.get("lora") or section.get("checkpoint")
    manifest = Path(str(folder)) / _MANIFEST
    return manifest if folder and manifest.is_file() else None


def _folder() -> Any:
    return resources.files(__name__)


def _read(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"--preset {name}: no such file")
        text = path.read_text()
    else:
        if name not in names():
            raise UsageError(f"--preset {name}: no such preset{_hint(name, names())}; there are {', '.join(names())}")
        text = (_folder() / f"{name}.toml").read_text()
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--preset {name}: not TOML ({error})") from None


def _checkpoints(entries: Any, name: str) -> tuple[Checkpoint, ...]:
    try:
        return TypeAdapter(tuple[Checkpoint, ...]).validate_python(entries)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UsageError(f"--preset {name}: checkpoints.{wrong}; presets/sd15.toml shows the keys") from None


def _apply(data: dict[str, Any], override: str, name: str) -> None:
    path, equals, text = override.partition("=")
    section, _, key = path.partition(".")
    known = [f"{s}.{k}" for s, part in data.items() if isinstance(part, dict) for k in part]
    if not equals:
        raise UsageError(f"--set {override}: write section.key=value, such as {known[0]}=...")
    if path not in known:
        raise UsageError(f"--set {path}: preset '{name}' has no such key{_hint(path, known)}")
    old = data[section][key]
    try:
        new = text if isinstance(old, str) else tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        new = None
    if isinstance(old, float) and type(new) is int:
        new = float(new)
    if type(new) is not type(old):
        raise UsageError(f"--set {override}: {path} takes a {type(old).__name__}, such as {old!r}")
    data[section][key] = new


def _refuse_secrets(data: Mapping[str, Any], name: str, prefix: str = "") -> None:
    for key, value in data.items():
        if isinstance(value, dict):
            _refuse_secrets(value, name, f"{prefix}{key}.")
        elif _SECRET_KEY.search(key) or (isinstance(value, str) and _URL_WITH_PASSWORD.match(value)):
            raise UsageError(
                f"preset '{name}': {prefix}{key} is a secret, and presets are copied into run.json; put it into the "
                "environment, such as OPENAI_API_KEY"
            )


def _hint(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
