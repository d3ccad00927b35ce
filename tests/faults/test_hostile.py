"""Records, names and files of somebody who means harm lead nowhere, run nothing and tell nothing.

That no API key gets into a file or a message, tests/commands/test_score.py shows against a server that repeats it.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from support.runs import repeatable

from realign_cli.data.records import METADATA
from realign_cli.errors import RealignError

if TYPE_CHECKING:
    from faults.warm import Warm

pytestmark = pytest.mark.fault

PACKAGE = Path(__file__).parents[2] / "realign_cli"
TAGS = [{"label": "circle", "confidence": 0.9}]
# A forged line, a cleared screen, a copy to the clipboard (OSC 52), reversed text, invisible letters (tags block).
SPITEFUL = (
    "good\nrealign tag: all is well\r\x1b[2J\x1b]52;c;cm0gLXJm\x07\x9b31m\u202egnp.\u2066\u200f\u061c\u2028\U000e0041"
)
FORBIDDEN = set("\r\x1b\x07\x9b\u202e\u2066\u200f\u061c\u2028\U000e0041")


def write(folder: Path, lines: list[dict[str, object]]) -> Path:
    folder.mkdir()
    (folder / METADATA).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def read(folder: Path) -> list[dict[str, object]]:
    lines = (folder / METADATA).read_text().split("\n")  # not splitlines: JSON strings may hold other line separators
    return [json.loads(line) for line in lines if line]


def test_no_name_leads_out_of_its_folder(warm: Warm, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    secret = (tmp_path / "secret.png").read_bytes()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.png").write_bytes(secret)
    names = [
        *("../secret.png", "x/../../secret.png", str(tmp_path / "secret.png"), "file://secret.png"),
        *(r"\\host\share\secret.png", "//host/share/secret.png", r"C:\secret.png", r"..\secret.png"),
        *("link.png", "folder/secret.png", "new\nline.png", "nul\0.png", "-rf", "~/secret.png", "$HOME/secret.png"),
    ]
    lines = [{"file_name": name, "text": "a", "id": str(i), "tags": TAGS} for i, name in enumerate(names)]
    source = write(tmp_path / "source", lines)
    (source / "link.png").symlink_to(tmp_path / "secret.png")
    (source / "folder").symlink_to(tmp_path / "elsewhere")
    scored = warm("score", "--in", "source", "--out", "scored", "-q", cwd=tmp_path)  # keeps images without a look
    assert scored.code == 3, scored.stderr
    kinds = {failure["kind"] for record in read(tmp_path / "scored") for failure in record["failures"]}
    assert kinds == {"bad_file_name", "missing_image", "no_image"}
    assert secret not in repeatable(tmp_path / "scored").values()
    assert not any(record["file_name"] for record in read(tmp_path / "scored"))
    measured = warm("eval", "--in", "source", "--metrics", "oracle", "--cache", "cache", "-q", cwd=tmp_path)
    assert measured.code == 1 and measured.stderr.count("\n") == 1, measured.stderr
    exported = warm("export", "t2i-compbench", "--in", "source", "--out", "exported", "-q", cwd=tmp_path)
    assert exported.code == 3 and not (tmp_path / "exported").exists()
    assert exported.stderr.count("\n") == 11, exported.stderr  # ten of the failures and how many more


def test_a_link_within_its_folder_becomes_a_file(warm: Warm, tmp_path: Path) -> None:
    source = write(tmp_path / "source", [{"file_name": "a.png", "text": "a", "id": "0", "tags": TAGS}])
    (source / "real").mkdir()
    (source / "real" / "b.png").write_bytes(b"pixels")
    (source / "a.png").symlink_to("real/b.png")
    assert warm("score", "--in", "source", "--out", "scored", "-q", cwd=tmp_path).code == 0
    copy = tmp_path / "scored" / "0.png"
    assert copy.read_bytes() == b"pixels" and not copy.is_symlink()


def test_prompts_are_text_and_nothing_else(warm: Warm, tmp_path: Path) -> None:
    prompts = [
        *("--out=/tmp/x", "-h", "../../etc/passwd", "/etc/passwd", "$(touch pwned)", "`touch pwned`; touch pwned"),
        *("@prompts.txt", "%s %d {0} {x!r}", "=cmd|'/c calc'!A1", "<script>alert(1)</script>", "[red]a[/red]", "nul\0"),
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    (tmp_path / "images").mkdir()
    for i in range(len(prompts)):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{i:02d}.png")
    taken = warm("import", "--in", "images", "--prompts", "prompts.jsonl", "--out", "taken", "-q", cwd=tmp_path)
    assert taken.code == 0, taken.stderr
    assert [record["text"] for record in read(tmp_path / "taken")] == prompts
    exported = warm("export", "t2i-compbench", "--in", "taken", "--out", "exported", "-q", cwd=tmp_path)
    assert exported.code == 3, exported.stderr
    made = sorted(path.name.rpartition("_")[0] for path in (tmp_path / "exported" / "samples").iterdir())
    assert made == sorted(prompt for prompt in prompts if "/" not in prompt and "\0" not in prompt)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"prompts.jsonl", "images", "taken", "exported"}


def test_words_cannot_steer_the_terminal_and_stay_in_the_records(warm: Warm, tmp_path: Path) -> None:
    failure = {"stage": "tag", "kind": "odd", "message": SPITEFUL}
    record = {
        "text": SPITEFUL,
        "id": "0",
        "tags": TAGS,
        "failures": [failure],
        "caption": {"text": SPITEFUL, "reward": 0},
    }
    write(tmp_path / "source", [record])
    ended = warm("score", "--in", "source", "--out", "scored", "-q", cwd=tmp_path)
    assert ended.code == 3
    assert ended.stderr.count("\n") == 1 and not FORBIDDEN & set(ended.stderr)
    assert "source/metadata.jsonl:1: tag: good realign tag: all is well" in ended.stderr
    assert read(tmp_path / "scored") == [record]


@pytest.mark.parametrize(
    "line",
    [
        'api_key = "sk-0123456789"',
        'openai_api_key = "sk-0123456789"',
        'password = "0123456789"',
        'base_url = "https://me:0123456789@host/v1"',
        'headers = { api-key = "x", auth_token = "0123456789" }',
        'token = "0123456789"',
        'apiKey = "0123456789"',
        'authorization = "0123456789"',
        'authorization = { value = "0123456789" }',
        'Cookies = ["0123456789"]',
        'headers = ["Authorization: Bearer 0123456789"]',
        'headers = [["x-api-key", "0123456789"]]',
        'headers = { accept = "Bearer 0123456789" }',
        'arguments = ["--api-key", "0123456789"]',
        'arguments = ["--hf-token=0123456789"]',
        'base_url = "https://host/v1?version=2&api_key=0123456789"',
        'base_url = "proxy=http://0123456789@host/"',
        'note = "sk-0123456789abcdef"',
        'body = \'{"password": "0123456789"}\'',
    ],
)
def test_a_secret_in_a_preset_is_refused_before_anything_copies_it(warm: Warm, tmp_path: Path, line: str) -> None:
    write(tmp_path / "source", [{"text": "a", "id": "0", "tags": TAGS}])
    (tmp_path / "mine.toml").write_text(f'[scorer]\nadapter = "a:b"\n{line}\n')
    before = repeatable(tmp_path)
    ended = warm("score", "--in", "source", "--preset", "mine.toml", "--out", "scored", cwd=tmp_path)
    assert ended.code == 2
    assert " is a secret, and presets are copied into run.json; put it into the environment" in ended.stderr
    assert "0123456789" not in ended.stderr
    assert repeatable(tmp_path) == before and not (tmp_path / "scored").exists()


def test_words_of_a_prompt_cannot_steer_the_terminal_by_a_warning(warm: Warm, tmp_path: Path) -> None:
    """The generator names words that it does not know, and phrases that it does not find."""
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": f"a red circle {SPITEFUL}"}) + "\n")
    options = ("--set", "generator.steps=1", "--out")
    made = warm("generate", "--prompts", "prompts.jsonl", *options, "made", cwd=tmp_path)
    assert made.code == 0 and "the generator does not know " in made.stderr
    assert not FORBIDDEN & set(made.stderr), made.stderr
    (record,) = read(tmp_path / "made")
    mask = {"size": [64, 64], "counts": "0P4"}
    thing = {"label": "ring", "phrase": f"a {SPITEFUL}", "likelihood": 2.0, "boxes": [[0, 0, 64, 64]], "mask": mask}
    (tmp_path / "made" / METADATA).write_text(json.dumps(record | {"tags": TAGS, "objects": [thing]}) + "\n")
    refined = warm("refine", "--method", "modulation", "--in", "made", *options, "refined", cwd=tmp_path)
    assert refined.code == 0 and "the region of 'a good realign tag: all is well" in refined.stderr
    assert not FORBIDDEN & set(refined.stderr), refined.stderr


LIBRARIES = ("PIL", "numpy", "psutil", "pydantic", "rich", "selectors", "torch", "typer")


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """A folder of the user's where files have the names of libraries; whoever imports one leaves a trace."""
    write(tmp_path / "source", [{"text": "a", "id": "0", "file_name": "a.png"}])
    Image.new("RGB", (64, 64)).save(tmp_path / "source" / "a.png")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "half.toml").write_text('[generator]\nadapter = "a:b"\n')
    for name in LIBRARIES:
        (tmp_path / name).mkdir()
        trap = f"open({str(tmp_path / 'sprung')!r}, 'a').write(__name__ + '\\n')\nraise ImportError\n"
        (tmp_path / name / "__init__.py").write_text(trap)
    return tmp_path


def started(*words: object, cwd: Path) -> CompletedProcess[str]:
    """The program as Python starts it, which decides where it imports from."""
    command = [sys.executable, "-m", "realign_cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_decoding_processes_import_nothing_from_the_working_directory(trapped: Path) -> None:
    done = started("eval", "--in", "source", "--metrics", "oracle", "--cache", "cache", "--json", cwd=trapped)
    assert done.returncode == 0, done.stderr
    assert not (trapped / "sprung").exists(), (trapped / "sprung").read_text()


def test_workers_import_nothing_from_the_working_directory(trapped: Path) -> None:
    command = ("run", "--prompts", "prompts.txt", "--out", "out", "--workers", 2, "--preset", "half.toml")
    done = started(*command, cwd=trapped)  # its workers get as far as their preset, which lacks a section
    assert done.returncode == 2 and done.stderr.count("preset 'half' has no [refine]") == 2, done.stderr
    assert not (trapped / "sprung").exists(), (trapped / "sprung").read_text()


def test_what_lies_on_the_python_path_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "source", [{"text": "a", "id": "0", "tags": TAGS}])
    (tmp_path / "own.py").write_text("from realign_cli.models.language.rule_scorer import RuleScorer as Scorer\n")
    (tmp_path / "mine.toml").write_text('[scorer]\nadapter = "own:Scorer"\n')
    command = ("score", "--in", "source", "--preset", "mine.toml")
    alone = started(*command, cwd=tmp_path)
    assert alone.returncode == 2 and "No module named 'own'" in alone.stderr
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(tmp_path)]))
    assert started(*command, cwd=tmp_path).returncode == 0


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> object:
        return open, (str(self._path), "w")


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    from realign_cli.models.vision.inception import InceptionFeatures

    trap, sprung = tmp_path / "weights.pth", tmp_path / "sprung"
    trap.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(RealignError, match="no Inception weights"):
        InceptionFeatures(str(trap), device="cpu")
    assert not sprung.exists()
    pickle.loads(trap.read_bytes())  # the trap works
    assert sprung.exists()


def calls() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Every call in the package: where, of what, and its keyword arguments (constants only)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                given = {
                    k.arg or "**": k.value.value if isinstance(k.value, ast.Constant) else ... for k in node.keywords
                }
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", ast.unparse(node.func), given


def test_nothing_loads_code_with_data() -> None:
    seen = list(calls())
    loads = [
        (place, given) for place, name, given in seen if name in ("torch.load", "torch.hub.load_state_dict_from_url")
    ]
    assert loads and all(given.get("weights_only") is True for _, given in loads), loads
    assert all(given.get("allow_pickle", False) is False for _, _, given in seen)
    assert not [place for place, _, given in seen if given.get("trust_remote_code")]
    assert not [place for place, _, given in seen if given.get("shell")]
    pipelines = [given for _, name, given in seen if name == "self._kind.from_pretrained"]
    assert pipelines and all(given.get("use_safetensors") is True for given in pipelines)
    banned = {"eval", "exec", "os.system", "pickle.load", "pickle.loads", "joblib.load", "yaml.load", "torch.hub.load"}
    assert not [(place, name) for place, name, _ in seen if name in banned]


def test_no_spreadsheet_is_written() -> None:
    """A cell that begins with "=" is a formula to a spreadsheet; whoever writes CSV first has to quote such cells."""
    assert not [path for path in PACKAGE.rglob("*.py") if "import csv" in path.read_text()]
