"""A preset is data: what --set may change, and how it says no."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from pathlib import Path

import pytest

from realign_cli import presets
from realign_cli.errors import UsageError
from realign_cli.registry import Models


def test_overrides_keep_the_type() -> None:
    preset = presets.load(
        "tiny", ["tagger.threshold=1", "modulation.splice_phrases=false", "blip.checkpoint=here=there"]
    )
    assert preset.section("tagger")["threshold"] == 1.0
    assert type(preset.section("tagger")["threshold"]) is float
    assert preset.section("modulation")["splice_phrases"] is False
    assert preset.section("blip")["checkpoint"] == "here=there"
    assert presets.load("tiny").section("modulation")["splice_phrases"] is True
    assert presets.load("tiny", ["generator.size=96x64"]).section("generator")["size"] == "96x64"


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("generator.size=96x60", "generator.size: Input should be 512, or WIDTHxHEIGHT"),
        ("tagger.treshold=0.5", "did you mean 'tagger.threshold'?"),
        ("steps=5", "no such key"),
        ("tagger.threshold", "write section.key=value"),
        ("tagger.threshold=high", "tagger.threshold takes a float"),
        ("generator.steps=2.5", "generator.steps takes a int"),
        ("generator.steps=true", "generator.steps takes a int"),
        ("modulation.splice_phrases=1", "modulation.splice_phrases takes a bool"),
    ],
)
def test_bad_override(override: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)):
        presets.load("tiny", [override])


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="no such preset; did you mean 'tiny'"):
        presets.load("tini")
    with pytest.raises(UsageError, match="no such file"):
        presets.load("mine.toml")
    with pytest.raises(UsageError, match=r"preset 'tiny' has no \[upscaler\]"):
        presets.load("tiny").section("upscaler")


def test_a_moved_checkpoint_is_found_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    preset = presets.load("sd15", ["generator.checkpoint=runwayml/stable-diffusion-v1-5"])
    assert preset.section("generator")["checkpoint"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert "runwayml/stable-diffusion-v1-5 is no longer on the hub" in caplog.text


def test_what_sd15_loads_is_listed_with_a_pin() -> None:
    """Each checkpoint that a section names; at a commit or by sums, where any public text states these."""
    preset = presets.load("sd15")
    named = {
        section[key]
        for section in preset.sections.values()
        for key in ("checkpoint", "tokenizer", "reference")
        if key in section
    }
    listed = {checkpoint.name for checkpoint in preset.checkpoints}
    assert named - listed == {preset.section("scorer")["checkpoint"]} and listed <= named
    pins = {one.name: [one.revision] if one.patterns else [f.sha256 for f in one.files] for one in preset.checkpoints}
    assert {name for name, own in pins.items() if not all(re.fullmatch("[0-9a-f]{40,64}", pin) for pin in own)} == {
        *("Nano1337/negclip", "microsoft/Promptist", "openai-community/gpt2")
    }
    reward = preset.section("reward-imagereward")
    assert [reward["tokenizer_revision"]] == pins[reward["tokenizer"]]


def test_a_preset_may_say_what_is_other_than_in_another(tmp_path: Path) -> None:
    xl, base = presets.load("sdxl", ["generator.steps=3"]), presets.load("sd15")
    changed = {name for name in base.sections if xl.section(name) != base.section(name)}
    assert xl.sections.keys() == base.sections.keys() and changed == {"generator", "train", "train-nft"}
    assert (xl.section("generator")["steps"], xl.section("generator")["size"], xl.batch_size) == (3, 1024, 4)
    needed = {one.name for one in xl.checkpoints if xl.users(one)} ^ {one.name for one in base.checkpoints}
    assert needed == {xl.section("generator")["checkpoint"], base.section("generator")["checkpoint"]}
    file = tmp_path / "mine.toml"
    file.write_text('base = "tiny"\n[generator]\nsteps = 5\n')
    assert presets.load(str(file)).section("generator") == {**presets.load("tiny").section("generator"), "steps": 5}
    file.write_text('base = "sd16"\n')
    with pytest.raises(UsageError, match=r"mine\.toml: its base is 'sd16'; there are inception, sd15, sdxl, tiny"):
        presets.load(str(file))


def test_the_numbers_of_the_paper() -> None:
    numbers = Models(presets.load("sd15")).training
    assert (numbers.reward_weight, numbers.sampler_steps, numbers.first_step) == (1e-3, 50, 30)
    assert numbers.learning_rate == 1e-5
    assert (numbers.effective_batch_size, numbers.mixed_precision, numbers.rank) == (128, "fp16", 0)
    numbers = Models(presets.load("sd15", ["train.estimator=refl"])).training  # those of ImageReward
    assert (numbers.rewards, numbers.reward_weight, numbers.guidance) == ({"imagereward": 1.0}, 1e-3, 1.0)
    assert (numbers.sampler_steps, numbers.first_step, numbers.last_step) == (40, 30, 39)
    assert (numbers.learning_rate, numbers.effective_batch_size, numbers.max_train_steps) == (1e-5, 64, 100)
    generator = presets.load("sd15").section("generator")
    assert (generator["size"], generator["steps"], generator["guidance"]) == (512, 50, 7.5)
    paper = Models(presets.load("sd15")).region_control
    assert paper == Models(presets.load("tiny", ["refine.method=modulation"])).region_control


def test_a_mistyped_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[[checkpoints]]\nname = "a/b"\ngigabyte = 1.0\nloaded = 1.0\nlicence = "MIT"\n')
    with pytest.raises(
        UsageError, match=r"checkpoints\.0\.gigabytes: Field required; checkpoints\.0\.gigabyte: Extra inputs"
    ):
        presets.load(str(file))


def test_file_of_your_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("batch_size = 3\n[tagger]\nthreshold = 0.5\n")
    preset = presets.load(str(file), ["tagger.threshold=0.7"])
    assert (preset.name, preset.batch_size, preset.section("tagger")) == ("mine", 3, {"threshold": 0.7})
    file.write_text("[tagger\n")
    with pytest.raises(UsageError, match=r"mine\.toml: not TOML"):
        presets.load(str(file))


def test_a_backend_takes_the_place_of_sections() -> None:
    plain = presets.load("tiny")
    preset = presets.load("tiny", ["captioner.num_beams=3"], "lavis")
    changed = {name for name in plain.sections if preset.section(name) != plain.section(name)}
    assert changed == {"captioner", "text_encoder", "blip"}
    assert preset.sections.keys() == plain.sections.keys()
    assert preset.section("captioner")["num_beams"] == 3
    for name in changed:
        module, _, adapter = preset.section(name)["adapter"].partition(":")
        assert callable(getattr(importlib.import_module(module), adapter))
    assert "lavis" not in presets.names()


NUMBERS = {
    *("generate", "structure", "attend", "syngen", "predicated"),
    *("refine", "regional", "modulation", "dense", "loop", "bench", "train", "train-nft", "train-refl"),
}


@pytest.mark.parametrize("name", presets.names())
def test_every_adapter_exists(name: str) -> None:
    for role, section in presets.load(name).sections.items():
        if role not in NUMBERS:
            module, _, adapter = section["adapter"].partition(":")
            assert callable(getattr(importlib.import_module(module), adapter)), role


@pytest.mark.parametrize(
    "override",
    [
        *("generator.steps=0", "generator.steps=-1", "generator.steps=1000", "generator.steps=1001"),
        *("generator.guidance=nan", "generator.guidance=inf", "generator.guidance=1e38", "generator.guidance=-1.0"),
        *("generator.size=0", "generator.size=-8", "generator.size=100", "generator.model_batch_size=0"),
        *("tagger.model_batch_size=-1", "tagger.threshold=1.5", "tagger.threshold=nan", "detector.nms=-0.1"),
        "reward-caption.samples=0",
    ],
)
def test_a_number_out_of_range_is_refused_where_it_is_read(override: str) -> None:
    key, _, value = override.partition("=")
    with pytest.raises(UsageError, match=rf"^--preset tiny: {re.escape(key)}: Input should be .*, not {value[:2]}"):
        presets.load("tiny", [override])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("batch_size = 0", "batch_size: Input should be greater than or equal to 1, not 0"),
        ("batch_size = true", "batch_size: Input should be a valid integer, not True"),
        ("needs_gpu = 'yes'", "needs_gpu: Input should be a valid boolean, not 'yes'"),
        ("need_gpu = true", "need_gpu: Input should be a valid dictionary or instance of Section, not True"),
        ("generator = []", "generator: Input should be a valid dictionary"),
        ("checkpoints = 5", "checkpoints: Input should be a valid tuple, not 5"),
        ("[generator]\nsteps = '20'", "generator.steps: Input should be a valid integer, not '20'"),
        ("[generator]\ncheckpoint = ['a']", "generator.checkpoint: Input should be a valid string"),
        ("[mine]\nadapter = '.a:b'", "mine.adapter: String should match pattern"),
        ("[mine]\nweight = inf", "mine.weight.float: Input should be a finite number, not inf"),
        ("[mine]\nwhen = 2026-01-01", "mine.when: input was not a valid JSON value"),
    ],
)
def test_what_a_preset_file_may_hold(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=re.escape(complaint)):
        presets.load(str(file))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        *(({"name": name}, "files.0.name") for name in ("../x", "/etc/x", "a/b", "..", ".bashrc", "a\\b", "", "a\nb")),
        ({"instead": "../x"}, "files.0.instead"),
        *(({"url": url}, "files.0.url") for url in ("file:///etc/passwd", "ftp://host/x", "https://", "x")),
        ({"sha256": "0" * 63}, "files.0.sha256"),
    ],
)
def test_a_file_to_fetch_stays_in_its_folder_and_comes_from_the_web(
    tmp_path: Path, change: dict[str, str], key: str
) -> None:
    file = {"name": "x.pth", "url": "https://host/x", "sha256": "0" * 64}
    with pytest.raises(UsageError, match=rf"checkpoints\.0\.{key}"):
        presets.load(listing(tmp_path, "fetched:x", file | change))
    assert presets.load(listing(tmp_path, "fetched:x", file)).checkpoints[0].files[0].name == "x.pth"


@pytest.mark.parametrize("name", ["fetched:../x", "fetched:/etc", "fetched:a/b", "../x", "/etc", "a/../b", "a/b/c", ""])
def test_the_folder_of_a_checkpoint_stays_in_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"checkpoints\.0\.name"):
        presets.load(listing(tmp_path, name, {"name": "x.pth", "url": "https://host/x", "sha256": "0" * 64}))


def listing(folder: Path, name: str, file: dict[str, str]) -> str:
    """A preset with one checkpoint of one file."""
    keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in file.items())
    entry = f"name = {json.dumps(name)}\ngigabytes = 0\nloaded = 0\nlicence = 'MIT'"
    path = folder / "listing.toml"
    path.write_text(f"[[checkpoints]]\n{entry}\n[[checkpoints.files]]\n{keys}\n")
    return str(path)


@pytest.mark.parametrize(
    "line",
    [
        *("max_tokens = 5", 'tokenizer = "a/b"', 'tokenizer_revision = "0123"', "only_phrase_tokens = true"),
        *(
            'author = "me"',
            'base_url = "https://host:8000/v1?version=2"',
            'key = "red"',
            'prompt = "a sketch of a mask"',
        ),
        *('api_key = ""', 'headers = { accept = "text/plain" }', 'monkeys = ["a", "b"]'),
    ],
)
def test_what_is_no_secret(tmp_path: Path, line: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"[scorer]\n{line}\n")
    assert presets.load(str(file)).section("scorer")


@pytest.mark.parametrize(
    "text", ["[]", "{}", "5", "{", '{"config": []}', '{"config": {"settings": {"generator": 5}}}', "\udcff"]
)
def test_a_lora_whose_manifest_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"")
    (tmp_path / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"manifest\.json: not as 'realign train' writes it"):
        presets.with_model(presets.load("tiny"), tmp_path)


def test_two_loras_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"a LoRA, and generator\.lora style\.safetensors is another; give one of"):
        presets.with_model(presets.load("sd15", ["generator.lora=style.safetensors"]), tmp_path)


def test_files_of_the_user_s_own_are_told_by_their_sums(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"weights")
    told = Models(presets.load("sd15", [f"generator.checkpoint={file}"])).describe(["generator"])["settings"]
    assert told["generator"]["checkpoint_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert "lora_sha256" not in told["generator"]
