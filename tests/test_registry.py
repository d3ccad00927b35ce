"""Models come from the preset's strings, once, from weights that are what they were when published."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from realign_cli import presets, registry
from realign_cli.errors import RealignError, UsageError
from realign_cli.registry import Models
from realign_cli.settings import Attend, Dense, Modulation, Predicated, Regional, Structure, SynGen


def models(folder: Path, section: str) -> Models:
    (folder / "mine.toml").write_text(section)
    return Models(presets.load(str(folder / "mine.toml")), "cpu")


def test_one_instance_of_each() -> None:
    loaded = Models(presets.load("tiny"), "cpu")
    assert loaded.scorer is loaded.scorer
    assert loaded.metric("oracle") is loaded.metric("oracle")


def test_the_numbers_of_the_method() -> None:
    changes = ["refine.method=modulation", "modulation.cross_weight=2"]
    numbers = Models(presets.load("tiny", changes)).region_control
    assert isinstance(numbers, Modulation)
    assert (numbers.cross_weight, numbers.self_weight, numbers.clamp_lambda) == (2.0, 0.3, True)
    assert Models(presets.load("tiny", ["regional.dilation=0"])).region_control == Regional(0.5, 0.0)


def test_the_numbers_of_the_rivals() -> None:
    """Those of their authors on Stable Diffusion 1.5; a preset that names none, or plain, has none."""

    def rival(method: str) -> object:
        return Models(presets.load("sd15", [f"generate.method={method}"])).phrase_control

    assert [Models(presets.load(name)).phrase_control for name in ("sd15", "inception")] == [None, None]
    assert rival("structure") == Structure(form="default")
    guided = {"step_size": 20.0, "step_fraction": 0.5, "map_level": 2}
    thresholds = ((0.0, 0.05), (0.2, 0.5), (0.4, 0.8))
    assert rival("attend") == Attend(**guided, step_decay=0.5, thresholds=thresholds, refinements=20)
    assert rival("syngen") == SynGen(**guided, step_decay=0.0)
    assert rival("predicated") == Predicated(**guided, step_decay=0.5, existence_weight=0.1, foreign_weight=0.3)
    dense = Models(presets.load("sd15", ["refine.method=dense"])).region_control
    assert isinstance(dense, Dense)
    assert dense.modulation == Modulation(1.0, 0.3, 5.0, 0.3, False, True, False, False)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["generate.method=paint"], "preset 'tiny': generate.method: Input should be 'plain', 'structure', 'attend', "),
        (["structure.form=loose"], "preset 'tiny': structure.form: Input should be 'default' or 'conjunction'"),
        (["attend.step_size=-1"], "attend.step_size: Input should be greater than or equal to 0, not -1.0"),
        (["attend.thresholds=[[0.2]]"], "attend.thresholds.0.1: Field required"),
        (["attend.thresholds=[[0.2, 1.5]]"], "attend.thresholds.0.1: Input should be less than or equal to 1, not 1.5"),
        (["attend.map_level=-1"], "attend.map_level: Input should be greater than or equal to 0, not -1"),
    ],
)
def test_what_a_preset_may_get_wrong_in_a_method(changes: list[str], complaint: str) -> None:
    method = changes[0].partition(".")[0]
    chosen = [] if method == "generate" else [f"generate.method={method}"]
    with pytest.raises(UsageError, match=re.escape(complaint)):
        _ = Models(presets.load("tiny", [*chosen, *changes])).phrase_control


def test_a_method_without_its_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[generate]\nmethod = "attend"\n')
    with pytest.raises(UsageError, match=r"preset 'mine' has no \[attend\], which the method needs; tiny and "):
        _ = Models(presets.load(str(tmp_path / "mine.toml"))).phrase_control


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            ('method = "modulation"', 'method = "paint"'),
            "preset 'mine': refine.method: Input should be 'modulation', 'regional' or 'dense', not 'paint'",
        ),
        (("step_fraction = 0.3\n", ""), "preset 'mine': modulation.step_fraction: Field required"),
        (
            ("step_fraction = 0.3\n", "step_part = 0.3\n"),
            "modulation.step_fraction: Field required; modulation.step_part: Unexpected",
        ),
        (("cross_weight = 1.0", "cross_weight = 'strong'"), "modulation.cross_weight: Input should be a valid number"),
        (("clamp_lambda = true", "clamp_lambda = 1"), "modulation.clamp_lambda: Input should be a valid boolean"),
        (
            ("step_fraction = 0.3", "step_fraction = 1.5"),
            "modulation.step_fraction: Input should be less than or equal to 1, not 1.5",
        ),
        (("power = 5.0", "power = -1.0"), "modulation.power: Input should be greater than or equal to 0, not -1.0"),
    ],
)
def test_what_a_preset_file_may_get_wrong_in_refine(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    packaged = (Path(presets.__file__).parent / "sd15.toml").read_text().replace("needs_gpu = true", "")
    assert change[0] in packaged
    with pytest.raises(UsageError, match=re.escape(complaint)):
        _ = models(tmp_path, packaged.replace(*change)).region_control


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ("last_step=10", "train: first_step 2 and last_step 10 must lie in 0..9, in this order; "),
        ("first_step=6", "train: first_step 6 and last_step 5 must lie in 0..9, in this order; "),
        ("terms_per_rollout=5", "train: 5 terms per rollout, but only 4 steps to take them at; "),
        (
            "pretraining_images=0",
            "train: pretraining_images is 0, and reward-weighted denoising learns from such images; ",
        ),
        ("reward=caption=much", "train.reward: 'much' is no number; write NAME=WEIGHT,..."),
        ("reward=caption=nan,clip", "train.reward: 'nan' is no number; write NAME=WEIGHT,..."),
    ],
)
def test_numbers_of_training_that_do_not_go_together(changes: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"preset 'tiny': {complaint}")):
        _ = Models(presets.load("tiny", [f"train.{changes}"])).training


def test_rewards_and_their_weights() -> None:
    numbers = Models(presets.load("tiny", ["train.reward=caption=0.5, clip,mine:Class=2"])).training
    assert numbers.rewards == {"caption": 0.5, "clip": 1.0, "mine:Class": 2.0}


def test_former_names_of_keys_of_train_are_refused(tmp_path: Path) -> None:
    """And never passed over: the line names the key that is there and the one that is not."""
    packaged = (Path(presets.__file__).parent / "tiny.toml").read_text()
    for former, now in {"checkpointing_steps": "checkpoint_every", "sampling_steps": "sample_every"}.items():
        with pytest.raises(UsageError, match=f"train.{now}: Field required; train.{former}: Unexpected"):
            _ = models(tmp_path, packaged.replace(f"{now} =", f"{former} =")).training


@pytest.mark.parametrize(
    "change", ["sampler_steps=1000", "guidance=1e38", "first_step=-1", "last_step=-1", "micro_batch_size=0"]
)
def test_what_a_preset_may_get_wrong_in_train(change: str) -> None:
    with pytest.raises(UsageError, match=f"train.{change.partition('=')[0]}: Input should be"):
        _ = Models(presets.load("tiny", [f"train.{change}"])).training


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("[scorer]\n", r"\[scorer\] adapter '': "),
        ('[scorer]\nadapter = "realign_cli.models.nothing:Here"', r"\[scorer\] .*No module named"),
        ('[scorer]\nadapter = "realign_cli.models.language.rule_scorer:Here"', r"\[scorer\] .*has no attribute 'Here'"),
        (
            '[scorer]\nadapter = "realign_cli.models.language.rule_scorer:RuleScorer"\ntemper = 1',
            r"\[scorer\] .*'temper'",
        ),
        ("[tagger]\n", r"preset 'mine' has no \[scorer\]"),
    ],
)
def test_what_a_preset_file_may_get_wrong(tmp_path: Path, section: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        _ = models(tmp_path, section).scorer


def test_packaged_weights_are_compared_with_their_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = '[scorer]\nadapter = "realign_cli.models.language.rule_scorer:RuleScorer"\ncheckpoint = "package:rules"'
    monkeypatch.setattr(registry, "_WEIGHTS", tmp_path)
    with pytest.raises(RealignError, match=r"SHA256SUMS: missing; install realign again"):
        models(tmp_path, section).describe(["scorer"])
    weights = tmp_path / "rules" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'weights').hexdigest()}  rules/model.safetensors\n")
    sound = models(tmp_path, section)
    assert sound.scorer is not None
    described = sound.describe(["scorer"])["settings"]["scorer"]
    assert described["checkpoint"] == "package:rules" and len(described["sha256"]) == 64
    weights.write_bytes(b"weighty")
    with pytest.raises(RealignError, match=r"model\.safetensors: missing or damaged; install realign again"):
        _ = models(tmp_path, section).scorer


def test_what_was_not_fetched_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    sd15 = Models(presets.load("sd15"), "cpu")
    missing = r"no ram_swin_large_14m\.pth; fetch it with 'realign download --preset sd15', or use '--preset tiny'"
    with pytest.raises(RealignError, match=missing):
        _ = sd15.tagger
    with pytest.raises(UsageError, match="preset 'mine': no fetched:sam among its checkpoints"):
        _ = models(tmp_path, '[scorer]\nadapter = "x:Y"\ncheckpoint = "fetched:sam"').scorer


def test_a_published_checkpoint_is_known_by_its_commit_or_its_sums(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = Models(presets.load("sd15"), "cpu").describe(["generator", "tagger", "negclip"])["settings"]
    assert settings["generator"]["revision"] == "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
    assert len(settings["tagger"]["sha256"]) == 64
    assert settings["negclip"]["revision"] == "main"
    refs = tmp_path / "models--Nano1337--negclip" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("f" * 40)
    settings = Models(presets.load("sd15"), "cpu").describe(["negclip"])["settings"]
    assert settings["negclip"]["revision"] == "f" * 40  # what `main` was when it was fetched


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path: Path) -> None:
    assert Models(presets.load("tiny")).device == "cpu"
    with pytest.raises(RealignError, match="--device cuda: no GPU is present"):
        _ = Models(presets.load("tiny"), "cuda").device
    (tmp_path / "big.toml").write_text("needs_gpu = true")
    big = presets.load(str(tmp_path / "big.toml"))
    with pytest.raises(RealignError, match="preset 'big' wants a GPU and none is present; --preset tiny"):
        _ = Models(big).device
    assert Models(big, "cpu").device == "cpu"


def test_our_own_adapters_are_told_by_their_class_and_others_whole(tmp_path: Path) -> None:
    ours = "realign_cli.models.language.rule_scorer:RuleScorer"
    text = f'[scorer]\nadapter = "{ours}"\n[tagger]\nadapter = "mine.models:Tagger"\n'
    settings = models(tmp_path, text).describe(["scorer", "tagger"])["settings"]
    assert (settings["scorer"]["adapter"], settings["tagger"]["adapter"]) == ("RuleScorer", "mine.models:Tagger")


def test_a_checkpoint_that_is_none_is_one_line(tmp_path: Path) -> None:
    """Whatever a library raises of it: a list in place of a configuration, weights of another network."""
    (tmp_path / "tag_list.txt").write_text("a\n")
    (tmp_path / "thresholds.txt").write_text("0.5\n")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"config": "[]"})
    text = (
        f'[tagger]\nadapter = "realign_cli.models.vision.ram:RamTagger"\ncheckpoint = "{tmp_path}"\nthreshold = 0.0\n'
    )
    with pytest.raises(UsageError, match=r"\[tagger\] adapter .*cannot load .*TypeError") as caught:
        _ = models(tmp_path, text).tagger
    assert "\n" not in str(caught.value)
