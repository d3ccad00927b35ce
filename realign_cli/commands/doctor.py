from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from realign_cli.commands.options import PresetOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from realign_cli.commands._checks import Check
    from realign_cli.presets import Checkpoint, Preset


def doctor(options: PresetOptions) -> None:
    """See whether this computer can run a preset, and what to do where it cannot.

    Looks at Python, packages, GPU, memory, disk, checkpoints, hub and language model. Memory is compared with the
    weights that a command holds; the images on their way need more. The exit code is 1 if something is wrong.

    Examples:

    realign doctor

    realign doctor --preset tiny
    """
    import sys
    from dataclasses import asdict

    from realign_cli import presets
    from realign_cli.console import Verbosity, plain, write_json

    Verbosity(options.quiet, options.verbose).apply()
    preset = presets.load(options.preset, options.overrides)
    findings = list(_findings(preset, options.preset))
    wrong = [finding for finding in findings if finding.remedy]
    if options.as_json:
        write_json([asdict(finding) for finding in findings])
    else:
        for finding in wrong if options.quiet else findings:
            remedy = f"\n      -> {finding.remedy}" if finding.remedy else ""
            verdict = "wrong" if finding.remedy else "ok"
            sys.stdout.write(plain(f"{verdict:5} {finding.name}: {finding.detail}{remedy}").plain + "\n")
    if wrong:
        raise typer.Exit(1)


def _findings(preset: Preset, name: str) -> Iterator[Check]:
    from realign_cli.commands import _checks
    from realign_cli.commands.download import is_present
    from realign_cli.files import hub

    yield _checks.python()
    yield _checks.packages()
    yield from _memory(preset)
    used = [checkpoint for checkpoint in preset.checkpoints if preset.users(checkpoint)]
    missing = [checkpoint for checkpoint in used if not is_present(preset, checkpoint)]
    yield _checks.disk(hub.home(), sum(checkpoint.gigabytes for checkpoint in missing))
    yield _checkpoints(used, missing, name)
    if missing and hub.offline():
        yield _checks.Check("hub", "HF_HUB_OFFLINE forbids it", "unset HF_HUB_OFFLINE to fetch what is missing")
    elif missing:
        yield _checks.reached(
            "hub", hub.address(), "check the network, or name a mirror with HF_ENDPOINT; --preset tiny"
        )
    scorer = preset.sections.get("scorer", {})
    if scorer.get("adapter", "").endswith(":LanguageModelScorer"):
        yield _checks.language_model(scorer["checkpoint"])


def _memory(preset: Preset) -> Iterator[Check]:
    """Of the GPU, against the weights that each command holds."""
    from realign_cli.commands import _checks
    from realign_cli.commands._stages import sections_held

    gpu = _checks.gpu_memory()
    if gpu is None:
        remedy = "--preset tiny runs without; --device cpu insists" if preset.needs_gpu else ""
        yield _checks.Check("GPU", "none", remedy)
        return
    yield _checks.Check("GPU", f"{gpu[0]}, {gpu[1]:.1f} GB")
    for command, sections in sections_held(preset).items():
        weights = [found for name in sections if (found := _published(preset, name))]
        needed = sum(checkpoint.loaded for checkpoint in dict.fromkeys(weights))
        if command == "train" and (trained := _published(preset, "generator")):
            needed += trained.loaded  # what is trained is float32, and not half
        offload = ", or --set generator.cpu_offload=true" if command in ("generate", "refine") else ""
        remedy = f"use a larger GPU{offload}" if needed > gpu[1] else ""
        if needed:
            yield _checks.Check(f"memory of {command}", f"{needed:.1f} GB of weights", remedy)


def _published(preset: Preset, section: str) -> Checkpoint | None:
    return preset.checkpoint(preset.sections.get(section, {}).get("checkpoint", ""))


def _checkpoints(used: list[Checkpoint], missing: list[Checkpoint], name: str) -> Check:
    from realign_cli.commands._checks import Check

    if not used:
        return Check("checkpoints", "packaged with the program")
    if not missing:
        return Check("checkpoints", f"all {len(used)} here")
    detail = f"{len(missing)} of {len(used)} missing: {', '.join(checkpoint.name for checkpoint in missing)}"
    return Check("checkpoints", detail, f"realign download --preset {name}")
