"""What a preset file may hold: its keys, their types and their ranges, checked where the file is read.

Keys that are not named here are options of an adapter, and any JSON value as far as this goes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from realign_cli.settings import Guidance, ImageSize, SamplerSteps

FETCHED = "fetched:"
_HUB = "https://huggingface.co"
_SHOWN = 40  # characters of a wrong value

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[float, Field(ge=0)]

# Names of files and folders that cannot lead out of the folder that they are put in.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
FileName = Annotated[str, Field(pattern=rf"^{_NAME}$", max_length=200)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Listed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class File(_Listed):
    """A published file: what it is called here, where it is, and the SHA-256 that makes sure that it is the one.

    `instead` names a file that may lie in its place.
    """

    name: FileName
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+/\S*$")]
    sha256: Digest
    instead: FileName | Literal[""] = ""

    @property
    def address(self) -> str:
        """`url`, at the hub that HF_ENDPOINT names if it is of the hub."""
        from huggingface_hub import constants

        return self.url.replace(_HUB, constants.ENDPOINT, 1)


class Checkpoint(_Listed):
    """What sections of a preset load, and `realign download` fetches.

    `name` is what the sections call it: a hub id, of which `revision` and the files that match `patterns` are meant, or
    "fetched:NAME", the folder of `files`. `gigabytes` are on disk, `loaded` those of the weights as computed with. Of
    the kind "dataset" are the images of COCO 2014 val, of which the reference of [fid] is made.
    """

    name: Annotated[str, Field(pattern=rf"^({FETCHED}{_NAME}|{_NAME}(/{_NAME})?)$", max_length=200)]
    gigabytes: Size
    loaded: Size
    licence: str
    revision: str = ""
    patterns: Annotated[tuple[str, ...], Field(strict=False)] = ()
    files: Annotated[tuple[File, ...], Field(strict=False)] = ()
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


class _Checked(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Section(_Checked):
    """What plays a role: an adapter, its checkpoint, and its options."""

    __pydantic_extra__: dict[str, JsonValue]

    adapter: Annotated[str, Field(pattern=r"^(\w+(\.\w+)*:\w+)?$")] = ""
    checkpoint: str = ""
    model_batch_size: Count | None = None
    max_new_tokens: Count | None = None
    num_beams: Count | None = None
    samples: Count | None = None


class Generator(Section):
    """Section `generator`."""

    steps: SamplerSteps | None = None
    guidance: Guidance | None = None
    size: ImageSize | None = None
    lora: str | None = None


class Finder(Section):
    """Sections `tagger` and `detector`."""

    threshold: Share | None = None
    nms: Share | None = None


class PresetFile(_Checked):
    """All of a preset; every key that is not named here is a section."""

    __pydantic_extra__: dict[str, Section]

    batch_size: Count = 8
    needs_gpu: bool = False
    checkpoints: Annotated[tuple[Checkpoint, ...], Field(strict=False)] = ()
    generator: Generator | None = None
    tagger: Finder | None = None
    detector: Finder | None = None


def describe_errors(error: ValidationError, *prefix: str) -> str:
    """What is wrong where, on one line."""
    return "; ".join(
        f"{'.'.join(map(str, (*prefix, *one['loc'])))}: {one['msg']}{_given(one['input'], one['type'])}"
        for one in error.errors(include_url=False)
    )


def _given(value: object, kind: str) -> str:
    """What stands there, where that is short and not the whole around what is missing or too much."""
    if kind in ("missing", "unexpected_keyword_argument", "extra_forbidden") or not isinstance(
        value, int | float | str
    ):
        return ""
    shown = repr(value)
    return f", not {shown}" if len(shown) <= _SHOWN else ""
