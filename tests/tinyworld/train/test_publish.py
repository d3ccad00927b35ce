"""How trained weights and their card come into the package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from realign_cli.tinyworld.train import publish

if TYPE_CHECKING:
    import pytest

CARD = publish.model_card(
    model="Net",
    parameters=1_234_567,
    trained_on="scenes",
    steps="3 and 4",
    minutes="5",
    quality={"found": publish.percentage([True, True, False])},
    notes={"losses": "one"},
)


def test_published_weights_take_the_place_of_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, made = tmp_path / "weights", tmp_path / "model"
    monkeypatch.setattr(publish, "WEIGHTS", weights)
    for folder in (weights / "tagger", weights / "masks", made / "inside"):
        folder.mkdir(parents=True)
    (weights / "tagger" / "stale").write_text("of an earlier training")
    (weights / ".realign-masks.tmp").mkdir()
    (weights / ".realign-masks.tmp" / "model").write_text("left by a training that was killed")
    (weights / "masks" / "other").write_text("another role")
    (made / "inside" / "model").write_text("weights")
    (made / "inside" / "config.json").write_text('{"_name_or_path": "/home/me/runs/model", "width": 8}')
    publish.publish("tagger", made, CARD)
    assert json.loads((weights / "tagger" / "inside" / "config.json").read_text()) == {"width": 8}
    sums = dict(reversed(line.split("  ")) for line in (weights / "SHA256SUMS").read_text().splitlines())
    assert list(sums) == ["masks/other", "tagger/README.md", "tagger/inside/config.json", "tagger/inside/model"]
    for name, expected in sums.items():
        assert hashlib.sha256((weights / name).read_bytes()).hexdigest() == expected
    assert sorted(path.name for path in weights.iterdir()) == ["SHA256SUMS", "masks", "tagger"]
    assert (weights / "tagger" / "README.md").read_text().splitlines() == [
        "# tagger",
        "",
        "| | |",
        "|---|---|",
        "| model | Net, 1.23 M parameters |",
        "| trained on | scenes |",
        "| losses | one |",
        "| steps | 3 and 4 |",
        "| minutes | 5 (one thread of a busy two-core machine) |",
        "| found | 66.7 % (n = 3) |",
        "",
        "Made by `python -m realign_cli.tinyworld.train tagger`.",
    ]
