"""The engine of latent guidance on a random UNet of the shape of Stable Diffusion 1.x, against whole passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from support.attention import WrittenOut
from torch import Tensor

from realign_cli.equations.binding import Binding
from realign_cli.errors import UsageError
from realign_cli.models.diffusion.latent_guidance import Guide, Loss, loss_of
from realign_cli.roles import Conditioning
from realign_cli.settings import Attend, LatentGuidance, Predicated, SynGen

WIDTH, TOKENS, SIDE, LENGTH = 16, 12, 16, 7
TIMESTEPS = torch.arange(951, 0, -50)  # 20 steps, of which the first 10 are guided
COMMON = {"step_size": 1.0, "step_fraction": 0.5, "map_level": 2}
ATTEND = Attend(**COMMON, step_decay=0.5, thresholds=(), refinements=20)
SYNGEN = SynGen(**COMMON, step_decay=0.0)
PREDICATED = Predicated(**COMMON, step_decay=0.5, existence_weight=0.1, foreign_weight=0.3)
CONTROLS = [ATTEND, SYNGEN, PREDICATED]
PHRASES = [Binding((3,), ((2,),)), Binding((6, 7), ((5,),))]
NAMES = [control.section for control in CONTROLS]


def inputs(batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 4, SIDE, SIDE, generator=generator)
    return latents, torch.randn(batch, TOKENS, WIDTH, generator=generator)


def guide(
    unet: UNet2DConditionModel, embeddings: Tensor, control: LatentGuidance, phrases: list[list[Binding]]
) -> Guide:
    losses = [loss_of(control, own, LENGTH) for own in phrases]
    return Guide(unet, Conditioning(embeddings), losses, control, TIMESTEPS)


def whole_pass(unet: UNet2DConditionModel, latents: Tensor, embeddings: Tensor, step: int) -> Tensor:
    """The maps (B, T, 4, 4), of all layers that have so many pixels, in a pass that is not cut short."""
    found: list[Tensor] = []
    stock = unet.attn_processors
    unet.set_attn_processor(WrittenOut(found.append))
    try:
        unet(latents, TIMESTEPS[step], encoder_hidden_states=embeddings)
    finally:
        unet.set_attn_processor(stock)
    own = [one for one in found if one.shape[2] == 16]
    assert len(found) == 16 and len(own) == 5  # 64^2 x 5, 32^2 x 5, 16^2 x 5 and 8^2 x 1 of a model of 512 pixels
    return torch.cat(own, 1).mean(1).mT.unflatten(2, (4, 4))


@pytest.mark.parametrize("control", CONTROLS, ids=NAMES)
def test_a_pass_cut_short_gives_the_gradient_of_a_whole(unet: UNet2DConditionModel, control: LatentGuidance) -> None:
    latents, embeddings = inputs(2)
    whole = latents.clone().requires_grad_()
    maps = whole_pass(unet, whole, embeddings, 3)
    losses = [loss_of(control, PHRASES, LENGTH)(own) for own in maps]  # type: ignore[misc]
    (expected,) = torch.autograd.grad(sum(losses), whole)
    values, gradient = guide(unet, embeddings, control, [PHRASES] * 2).look(latents, 3)
    torch.testing.assert_close(values, torch.stack(losses).detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, expected, atol=1e-5 * float(expected.abs().max()) + 1e-8, rtol=1e-3)


def test_tokens_share_the_attention_of_each_pixel(unet: UNet2DConditionModel) -> None:
    latents, embeddings = inputs(3)
    maps = guide(unet, embeddings, ATTEND, [PHRASES] * 3).maps(latents, 0)
    assert maps.shape == (3, TOKENS, 4, 4) and maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum(1), torch.ones(3, 4, 4))


@pytest.mark.parametrize("control", CONTROLS, ids=NAMES)
def test_one_update_lowers_the_loss(unet: UNet2DConditionModel, control: LatentGuidance) -> None:
    latents, embeddings = inputs(2)
    small = guide(unet, embeddings, replace(control, step_size=0.1), [PHRASES] * 2)
    before, _ = small.look(latents, 0)
    after, _ = small.look(small(latents, 0), 0)
    assert (after < before).all()


@pytest.mark.parametrize("control", CONTROLS, ids=NAMES)
def test_an_image_does_not_depend_on_those_beside_it(unet: UNet2DConditionModel, control: LatentGuidance) -> None:
    latents, embeddings = inputs(3)
    if isinstance(control, Attend):
        control = replace(control, thresholds=((0.0, 0.5),), refinements=3)
    moved = guide(unet, embeddings, control, [PHRASES, [], PHRASES[:1]])(latents, 0)
    other, texts = inputs(3, seed=1)
    other[0], texts[0] = latents[0], embeddings[0]
    beside = guide(unet, texts, control, [PHRASES, PHRASES, PHRASES])(other, 0)
    assert torch.equal(moved[0], beside[0]) and torch.equal(moved[1], latents[1])
    assert not torch.equal(moved[0], latents[0]) and not torch.equal(moved[2], latents[2])
    alone = guide(unet, embeddings[:1], control, [PHRASES])(latents[:1], 0)
    torch.testing.assert_close(moved[:1], alone, atol=1e-4, rtol=0)  # the size of a batch decides the last bits


def test_where_nothing_is_said_nothing_is_computed(unet: UNet2DConditionModel) -> None:
    bare = [Binding((3,), ())]
    assert loss_of(SYNGEN, bare, LENGTH) is None
    assert all(loss_of(control, [], LENGTH) is None for control in CONTROLS)
    assert loss_of(ATTEND, bare, LENGTH) and loss_of(PREDICATED, bare, LENGTH)
    latents, embeddings = inputs(1)
    calls: list[object] = []
    hook = unet.register_forward_pre_hook(lambda *_: calls.append(0))
    none = guide(unet, embeddings, SYNGEN, [bare])
    assert none(latents, 0) is latents
    late = guide(unet, embeddings, ATTEND, [PHRASES])
    assert late(latents, 10) is latents and not calls and late.updates == [0]
    assert late(latents, 9) is not latents and len(calls) == 1 and late.updates == [1]
    hook.remove()


def test_a_step_of_no_size_changes_nothing(unet: UNet2DConditionModel) -> None:
    latents, embeddings = inputs(1)
    for control in CONTROLS:
        assert torch.equal(guide(unet, embeddings, replace(control, step_size=0.0), [PHRASES])(latents, 0), latents)


def test_steps_follow_the_schedule(unet: UNet2DConditionModel) -> None:
    latents, embeddings = inputs(1)
    for control, size in ((ATTEND, (1 - 0.5 * 4 / 19) ** 0.5), (SYNGEN, 1.0)):
        one = guide(unet, embeddings, control, [PHRASES])
        _, gradient = one.look(latents, 4)
        torch.testing.assert_close(one(latents, 4), latents - size * gradient)


# Refinement of Attend-and-Excite


def test_refinement_goes_on_until_the_threshold_and_for_each_image_alone(unet: UNet2DConditionModel) -> None:
    latents, embeddings = inputs(2)
    base = replace(ATTEND, step_size=3.0)
    start, _ = guide(unet, embeddings, base, [PHRASES] * 2).look(latents, 0)
    wanted = 1 - float(start.min()) - 1e-4  # one image has it, the other one has not
    control = replace(base, thresholds=((0.0, wanted),))
    refined = guide(unet, embeddings, control, [PHRASES] * 2)
    after = refined(latents, 0)
    first = int(start.argmin())
    assert refined.updates[first] == 1 and 1 < refined.updates[1 - first] <= 21
    plain = guide(unet, embeddings, base, [PHRASES] * 2)
    assert torch.equal(after[first], plain(latents, 0)[first])
    # by hand: update after update until the loss is there, and then the one that every step has
    z, count = latents, 0
    while (look := plain.look(z, 0))[0][1 - first] > 1 - wanted and count < 20:
        z, count = z - 3.0 * look[1], count + 1
    assert refined.updates[1 - first] == count + 1
    torch.testing.assert_close(after[1 - first], (z - 3.0 * plain.look(z, 0)[1])[1 - first], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("wanted", "most", "updates"), [(0.0, 20, 1), (1.0, 20, 21), (1.0, 4, 5), (1.0, 0, 1)])
def test_how_often_refinement_moves(unet: UNet2DConditionModel, wanted: float, most: int, updates: int) -> None:
    """With a threshold of 0 not at all; never more often than it may; and at its own step alone."""
    latents, embeddings = inputs(1)
    one = guide(unet, embeddings, replace(ATTEND, thresholds=((0.2, wanted),), refinements=most), [PHRASES])
    one(latents, 0)
    assert one.updates == [1]
    one(latents, 4)
    assert one.updates == [1 + updates]


# What may go wrong


def test_a_level_without_attention_is_refused(unet: UNet2DConditionModel) -> None:
    _, embeddings = inputs(1)
    with pytest.raises(UsageError, match=r"syngen\.map_level is 4: .* reads the prompt at levels 0, 1, 2, 3"):
        guide(unet, embeddings, replace(SYNGEN, map_level=4), [PHRASES])


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_leaves_the_unet_as_it_was(unet: UNet2DConditionModel, error: type[BaseException] | None) -> None:
    latents, embeddings = inputs(1)
    before = unet.attn_processors
    one = guide(unet, embeddings, ATTEND, [PHRASES])

    def broken(*_: object) -> None:
        if error:
            raise error

    hook = unet.up_blocks[1].resnets[0].register_forward_hook(broken)  # when some layers have been read, not all
    try:
        one(latents, 0)
    except (ValueError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    else:
        assert error is None
    hook.remove()
    assert unet.attn_processors == before
    assert not any(module._forward_pre_hooks for module in unet.modules())
    assert not torch.are_deterministic_algorithms_enabled()


def test_half_precision_finds_the_gradient_of_the_single_one(unet: UNet2DConditionModel) -> None:
    """Scaled, for without it the gradient of so mean a map would vanish in float16."""
    latents, embeddings = inputs(2)
    faint: list[Loss | None] = [lambda maps: 1e-4 * maps[3, :2].sum()] * 2
    _, expected = Guide(unet, Conditioning(embeddings), faint, ATTEND, TIMESTEPS).look(latents, 0)
    half = UNet2DConditionModel.from_config(unet.config).half().eval().requires_grad_(False)
    half.load_state_dict({name: weight.half() for name, weight in unet.state_dict().items()})
    values, gradient = Guide(half, Conditioning(embeddings.half()), faint, ATTEND, TIMESTEPS).look(latents.half(), 0)
    assert values.dtype == gradient.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(gradient.flatten(1), expected.flatten(1))
    assert (cosine > 0.99).all() and gradient.norm() / expected.norm() == pytest.approx(1, abs=0.05)
    moved = Guide(half, Conditioning(embeddings.half()), faint, ATTEND, TIMESTEPS)(latents.half(), 0)
    assert moved.dtype == torch.float16


# The whole of it, step by step


def test_a_run_is_the_paper_s_loop_written_out(unet: UNet2DConditionModel) -> None:
    """Attend-and-Excite, Algorithm 1: maps of a whole pass, the loss, the update, then the sampler's guided step."""
    latents, embeddings = inputs(1)
    empty = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(5))
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(4)
    control = replace(ATTEND, step_size=2.0)
    one = Guide(unet, Conditioning(embeddings), [loss_of(control, PHRASES, LENGTH)], control, scheduler.timesteps)
    ours = latents
    theirs = latents.clone()
    alphas = scheduler.alphas_cumprod
    for i, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            ours = one(ours, i)
            both = unet(torch.cat([ours] * 2), t, encoder_hidden_states=torch.cat([empty, embeddings])).sample
            ours = scheduler.step(both[:1] + 3.0 * (both[1:] - both[:1]), t, ours).prev_sample
        if i < 2:
            z = theirs.requires_grad_()
            found: list[Tensor] = []
            stock = unet.attn_processors
            unet.set_attn_processor(WrittenOut(found.append))
            unet(z, t, encoder_hidden_states=embeddings)
            unet.set_attn_processor(stock)
            maps = torch.cat([map_ for map_ in found if map_.shape[2] == 16], 1)[0].mean(0).T.reshape(TOKENS, 4, 4)
            sharp = (100 * maps[1:-1]).softmax(0)
            weights = torch.tensor([[0.2119, 0.5761, 0.2119]])
            values = []
            for head in (sharp[2], sharp[[5, 6]].mean(0)):
                edged = head[[1, 0, 1, 2, 3, 2]][:, [1, 0, 1, 2, 3, 2]]
                smooth = torch.stack(
                    [(edged[y : y + 3, x : x + 3] * (weights.T @ weights)).sum() for y in range(4) for x in range(4)]
                )
                values.append((1 - smooth.max()).clamp(min=0))
            (gradient,) = torch.autograd.grad(max(values), z)
            theirs = (z - 2.0 * (1 - 0.5 * i / 3) ** 0.5 * gradient).detach()
        with torch.no_grad():
            plain, told = (unet(theirs, t, encoder_hidden_states=text).sample for text in (empty, embeddings))
            noise = plain + 3.0 * (told - plain)
            now = alphas[t]
            then = alphas[scheduler.timesteps[i + 1]] if i < 3 else scheduler.final_alpha_cumprod
            clean = (theirs - (1 - now).sqrt() * noise) / now.sqrt()
            theirs = then.sqrt() * clean + (1 - then).sqrt() * noise
    assert not torch.allclose(ours, latents, atol=0.1)
    torch.testing.assert_close(ours, theirs, atol=2e-3 * float(theirs.abs().max()), rtol=0)
