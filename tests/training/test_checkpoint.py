"""A checkpoint is complete or not there, whatever happens while it is written."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from realign_cli.errors import RealignError, UsageError
from realign_cli.training import checkpoint


def save(run: Path, step: int, value: float = 0.0) -> Path:
    def export(folder: Path) -> None:
        (folder / "unet").mkdir()
        (folder / "unet" / "model.safetensors").write_bytes(b"weights")

    return checkpoint.save(run, step, {"weights.a": torch.full((3,), value)}, {"skipped": 0}, export)


def test_what_was_saved_is_read(tmp_path: Path):
    save(tmp_path, 5, value=1.5)
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 5 and found.facts["skipped"] == 0
    assert torch.equal(found.tensors()["weights.a"], torch.full((3,), 1.5))
    modes = {path.stat().st_mode & 0o777 for path in found.path.iterdir() if path.is_file()}
    assert modes == {found.path.stat().st_mode & 0o666}  # who may read the folder may read its files


def test_the_last_are_kept(tmp_path: Path):
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["000003", "000010"]


@pytest.mark.parametrize("harm", ["torn state", "no manifest", "torn manifest", "lost model", "changed model"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture):
    save(tmp_path, 1)
    last = save(tmp_path, 2)
    if harm == "torn state":
        (last / "state.safetensors").write_bytes((last / "state.safetensors").read_bytes()[:-1])
    elif harm == "no manifest":
        (last / "manifest.json").unlink()
    elif harm == "torn manifest":
        (last / "manifest.json").write_text((last / "manifest.json").read_text()[:20])
    elif harm == "lost model":
        (last / "unet" / "model.safetensors").unlink()
    else:
        (last / "unet" / "model.safetensors").write_bytes(b"weighty")
    with caplog.at_level(logging.WARNING, logger="realign_cli.training.checkpoint"):
        found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 1
    assert str(last) in caplog.text and "falling back" in caplog.text
    with pytest.raises(UsageError, match="000002"):
        checkpoint.read(last)
    save(tmp_path, 2, value=2.0)  # the step is done again
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 2


def test_a_failed_save_leaves_the_others(tmp_path: Path):
    save(tmp_path, 1)

    def full(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(
        RealignError, match=r"000002 \(\d+ bytes and the model\): No space left on device; free some space"
    ):
        checkpoint.save(tmp_path, 2, {}, {}, full)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000001"]


def test_published_to_the_run(tmp_path: Path):
    checkpoint.publish(save(tmp_path, 1), tmp_path)
    checkpoint.publish(save(tmp_path, 2), tmp_path)
    assert (tmp_path / "unet" / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((tmp_path / "manifest.json").read_text())["step"] == 2
    assert not (tmp_path / "state.safetensors").exists()


def test_too_little_space_is_seen_before(tmp_path: Path):
    checkpoint.require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(RealignError, match=r"checkpoints take up to 1,000,000,000,000 MB and [\d,]+ MB are free"):
        checkpoint.require_space(tmp_path / "not" / "yet", 10**18)


@pytest.mark.parametrize(
    "name", ["../precious", "ABSOLUTE", "unet/../../precious", "link/precious", ".", "", "a\0b", 5]
)
def test_clearing_deletes_nothing_outside_the_folder(tmp_path: Path, name: object):
    run, precious = tmp_path / "run", tmp_path / "precious"
    checkpoint.publish(save(run, 1), run)
    precious.write_text("mine")
    (run / "link").symlink_to(tmp_path)
    manifest = run / "manifest.json"
    sound = json.loads(manifest.read_text())
    named = str(precious) if name == "ABSOLUTE" else name
    files = {named: "0" * 64} if isinstance(named, str) else named
    manifest.write_text(json.dumps({**sound, "files": files}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"manifest\.json"):
        checkpoint.clear(run)
    assert sorted(tmp_path.rglob("*")) == before and precious.read_text() == "mine"
    manifest.write_text(json.dumps(sound))
    checkpoint.clear(run)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "link", "unet"]
    assert not any((run / "unet").iterdir()) and precious.exists()
