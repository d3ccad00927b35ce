"""What `realign doctor` looks at: this computer, its packages, and what can be reached from it."""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import platform
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from realign_cli.files.disk import free_bytes

_DISTRIBUTION = "realign"
_TIMEOUT = 10  # seconds


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and, where something is wrong, what to do about it."""

    name: str
    detail: str
    remedy: str = ""


def python() -> Check:
    return Check("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def packages() -> Check:
    """Those that this program requires, against what is installed."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", f"{_DISTRIBUTION} itself is not installed", "run 'pip install .' in its folder")
    wrong, count = [], 0
    for requirement in map(Requirement, lines):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement} but {version} is installed")
    if wrong:
        return Check("packages", "; ".join(wrong), "run 'pip install --upgrade realign'")
    return Check("packages", f"all {count} as required")


def gpu_memory() -> tuple[str, float] | None:
    """Name and gigabytes of the first GPU, if there is one."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return properties.name, properties.total_memory / 1e9


def disk(folder: Path, gigabytes: float) -> Check:
    """Whether what is still to be fetched fits where `folder` is or will be."""
    free = free_bytes(folder) / 1e9
    detail = f"{free:.1f} GB free at {folder}, {gigabytes:.1f} GB to fetch"
    return Check("disk", detail, "free some space, or set HF_HOME to another disk" if free < gigabytes else "")


def reached(name: str, url: str, remedy: str) -> Check:
    """Whether there is a server; what it answers does not matter."""
    from realign_cli.files.download import without_secrets

    shown = without_secrets(url)
    if not url.startswith(("http://", "https://")):
        return Check(name, f"{shown}: not http:// or https://", remedy)
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT).close()
    except urllib.error.HTTPError:
        pass
    except http.client.InvalidURL:  # its words quote parts of it
        return Check(name, f"{shown}: not a web address", remedy)
    except (OSError, ValueError) as error:
        return Check(name, f"{shown}: {getattr(error, 'reason', error)}", remedy)
    return Check(name, f"{shown} answers")


def language_model(model: str) -> Check:
    """Whether the server that the environment names knows the model; see `models.chat`."""
    name, key = "language model", os.environ.get("OPENAI_API_KEY", "").strip()
    base = os.environ.get("OPENAI_BASE_URL", "").strip() or ("https://api.openai.com/v1" if key else "")
    if not base:
        return Check(name, f"no server for {model}", "set OPENAI_API_KEY or OPENAI_BASE_URL: docs/language_models.md")
    request = urllib.request.Request(f"{base.rstrip('/')}/models", headers={"Authorization": f"Bearer {key or 'none'}"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            known = [one["id"] for one in json.load(response)["data"]]
    except urllib.error.HTTPError as error:
        return Check(name, f"the server answers {error.code}", "check OPENAI_API_KEY and OPENAI_BASE_URL")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        return Check(name, f"no list of models ({reason})", "start the server, or correct OPENAI_BASE_URL")
    if model not in known:
        return Check(
            name, f"the server does not know {model}", f"--set scorer.checkpoint=ONE OF {', '.join(known[:5])}"
        )
    return Check(name, f"{model} is there")
