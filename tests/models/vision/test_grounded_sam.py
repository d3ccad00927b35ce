from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import sam_model_registry
from torchvision.transforms.functional import to_pil_image

from realign_cli.errors import RealignError, UsageError
from realign_cli.models.vision.grounded_sam import GroundingDetector, SamMasks, build_sam, choose, spans
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import SHAPES, Scene, Thing
from realign_cli.tinyworld.train import detector as detector_training
from realign_cli.tinyworld.train.masks import mask_iou
from realign_cli.tinyworld.train.pictures import draw_loose
from realign_cli.tinyworld.train.publish import WEIGHTS

needs_detector = pytest.mark.skipif(not (WEIGHTS / "detector").is_dir(), reason="no packaged detector; train it first")
needs_masks = pytest.mark.skipif(not (WEIGHTS / "masks").is_dir(), reason="no packaged mask model; train it first")

SCENE = Scene((Thing("red", "circle", 18, 20, 11), Thing("blue", "square", 45, 42, 11)), "white")


@pytest.fixture(scope="module")
def detector() -> GroundingDetector:
    return detector_of(3)


@pytest.fixture(scope="module")
def sam() -> SamMasks:
    return SamMasks(WEIGHTS / "masks", device="cpu", model_batch_size=3)


def detector_of(batch_size: int) -> GroundingDetector:
    options = {"threshold": detector_training.THRESHOLD, "nms": detector_training.NMS}
    return GroundingDetector(WEIGHTS / "detector", device="cpu", model_batch_size=batch_size, **options)


def picture(scene: Scene = SCENE) -> Image.Image:
    return Image.fromarray(scenes.render(scene))


def near(box: tuple[int, ...], thing: Thing) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return abs(x - thing.x) < 4 and abs(y - thing.y) < 4


class TestChoose:
    """The choice among queries, on boxes made by hand: left half, right half, and shifts of the left half."""

    LEFT, RIGHT = [0.25, 0.5, 0.4, 0.8], [0.75, 0.5, 0.4, 0.8]

    def chosen(self, boxes: list[list[float]], scores: list[list[float]]) -> list[tuple[int, object, float]]:
        return choose(torch.tensor(boxes), torch.tensor(scores), (100, 50), threshold=0.3, nms=0.5)

    def test_pixels_and_order(self) -> None:
        found = self.chosen([self.LEFT, self.RIGHT], [[0.5, 0.1], [0.2, 0.9]])
        assert found == [(1, (55, 5, 95, 45), 0.9), (0, (5, 5, 45, 45), 0.5)]

    def test_threshold(self) -> None:
        assert self.chosen([self.LEFT, self.RIGHT], [[0.3, 0.2], [0.31, 0.1]]) == [(0, (55, 5, 95, 45), 0.31)]

    def test_duplicates_of_one_label_only(self) -> None:
        shifted = [0.26, 0.5, 0.4, 0.8]
        assert [label for label, _, _ in self.chosen([self.LEFT, shifted], [[0.8, 0.0], [0.7, 0.0]])] == [0]
        assert [label for label, _, _ in self.chosen([self.LEFT, shifted], [[0.8, 0.0], [0.0, 0.7]])] == [0, 1]

    def test_whole_image_and_empty_boxes_are_dropped(self) -> None:
        assert self.chosen([[0.5, 0.5, 1.0, 0.96], [0.5, 0.5, 0.001, 0.5]], [[0.9], [0.9]]) == []
        assert len(self.chosen([[0.5, 0.5, 1.0, 0.94]], [[0.9]])) == 1

    def test_boxes_stay_inside_the_image(self) -> None:
        assert self.chosen([[0.1, 0.9, 0.4, 0.6]], [[0.9]]) == [(0, (0, 30, 30, 50), 0.9)]

    def test_nothing_found(self) -> None:
        assert self.chosen([self.LEFT], [[0.1]]) == []


def test_a_label_owns_all_its_tokens_and_no_others() -> None:
    # "red box. . ant." as [CLS] red box . . ant . [SEP]; the second label has no text of its own.
    offsets = torch.tensor([[0, 0], [0, 3], [4, 7], [7, 8], [9, 10], [11, 14], [14, 15], [0, 0]])
    owned = [span.nonzero()[:, 0].tolist() for span in spans(["red box", "", "ant"], offsets)]
    assert owned == [[1, 2], [], [5]]


@needs_detector
def test_finds_held_out_scenes(detector: GroundingDetector) -> None:
    quality = detector_training.measure(detector, 40, spoil=False)
    assert quality["recall"] > 0.9
    assert quality["precision"] > 0.9


@needs_detector
def test_finds_only_what_is_asked_for(detector: GroundingDetector) -> None:
    found = detector.detect([picture(), picture()], [["square"], ["square", "circle"]])
    assert [d.label for d in found[0]] == ["square"]
    assert near(found[0][0].box, SCENE.things[1])
    assert sorted(d.label for d in found[1]) == ["circle", "square"]
    assert all(0 <= d.score <= 1 for one in found for d in one)


@needs_detector
def test_nothing_asked_nothing_found(detector: GroundingDetector) -> None:
    assert detector.detect([picture(), picture()], [[], ["..."]]) == [[], []]
    assert detector.detect([], []) == []


@needs_detector
def test_repeated_kinds_get_a_box_each(detector: GroundingDetector) -> None:
    twins = Scene((Thing("red", "circle", 16, 20, 10), Thing("blue", "circle", 46, 42, 10)), "black")
    found = detector.detect([picture(twins)], [["circle"]])[0]
    assert len(found) == 2
    assert all(sum(near(d.box, thing) for d in found) == 1 for thing in twins.things)


@needs_detector
def test_labels_come_back_as_they_were_given(detector: GroundingDetector) -> None:
    plain = detector.detect([picture()], [["circle", "square"]])[0]
    odd = detector.detect([picture()], [["Circle.", "Circle.", "square?"]])[0]
    assert {d.label for d in odd} == {"Circle.", "square?"}
    assert [d.box for d in odd] == [d.box for d in plain]


@needs_detector
def test_more_labels_than_the_model_reads_at_once(detector: GroundingDetector) -> None:
    labels = ["circle", *(f"thing number {k}" for k in range(30)), "square"]
    found = detector.detect([picture()], [labels])[0]
    assert {"circle", "square"} <= {d.label for d in found}
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)


@needs_detector
def test_detection_does_not_depend_on_the_batch(detector: GroundingDetector) -> None:
    images = [picture(), picture().resize((150, 90)), picture(next(scenes.scenes(3)))]
    labels = [["circle"], list(SHAPES), list(SHAPES)]
    together = detector.detect(images, labels)
    assert together == [detector.detect([i], [own])[0] for i, own in zip(images, labels, strict=True)]
    assert together == detector.detect(images[::-1], labels[::-1])[::-1]
    assert together[1]
    assert max(d.box[2] for d in together[1]) > 64  # in pixels of the image, not of the model's input


@needs_detector
def test_a_batch_finds_what_single_images_show(detector: GroundingDetector) -> None:
    """Up to the last digit, padded captions notwithstanding."""
    images = [picture(next(scenes.scenes(seed))) for seed in range(5)]
    labels = [["ring"], list(SHAPES), ["circle", "square"], list(SHAPES), ["triangle"]]
    together, alone = detector.detect(images, labels), detector_of(1).detect(images, labels)
    assert any(together)
    assert [[d.label for d in own] for own in together] == [[d.label for d in own] for own in alone]
    for ours, theirs in zip(chain(*together), chain(*alone), strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=2e-4)
        assert np.abs(np.subtract(ours.box, theirs.box)).max() <= 1


@pytest.mark.parametrize("name", [".", "nowhere"])
def test_a_missing_detector_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(RealignError, match=r"^cannot load .*$"):
        GroundingDetector(tmp_path / name, device="cpu", threshold=0.3, nms=0.5)


@needs_masks
def test_masks_fit_the_things(sam: SamMasks) -> None:
    pictures = draw_loose(20, np.random.default_rng(4), held_out=True, spoil=False)
    images = [to_pil_image(pixels) for pixels in pictures.pixels]
    boxes = [[tuple(int(v) for v in box) for box in own] for own in pictures.boxes]
    found = sam.masks(images, boxes)
    ious = torch.cat([mask_iou(torch.from_numpy(a), b) for a, b in zip(found, pictures.masks, strict=True)])
    assert ious.mean() > 0.85


@needs_masks
def test_no_boxes_no_masks(sam: SamMasks) -> None:
    empty = sam.masks([picture().resize((30, 20))], [[]])[0]
    assert (empty.shape, empty.dtype) == ((0, 20, 30), np.bool_)
    assert sam.masks([], []) == []


@needs_masks
def test_masks_do_not_depend_on_the_batch_and_have_the_size_of_the_image(sam: SamMasks) -> None:
    large = picture().resize((160, 128))
    boxes = [[(7, 9, 29, 31), (36, 33, 54, 51)], [(17, 18, 73, 62)]]
    together = sam.masks([picture(), large], boxes)
    assert [m.shape for m in together] == [(2, 64, 64), (1, 128, 160)]
    single = SamMasks(WEIGHTS / "masks", device="cpu")
    for image, own, found in zip([picture(), large], boxes, together, strict=True):
        assert np.array_equal(sam.masks([image], [own])[0], found)
        assert (single.masks([image], [own])[0] == found).mean() > 0.999
    assert together[1][0][40, 45]
    assert not together[1][0][:, 100:].any()


def test_published_sam_fits() -> None:
    """The configuration in `build_sam`'s documentation builds the model that the published weights belong to."""
    with torch.device("meta"):
        published = sam_model_registry["vit_b"]().state_dict()
        ours = build_sam(
            image_size=1024,
            patch_size=16,
            width=768,
            depth=12,
            heads=12,
            window_size=14,
            global_attention=[2, 5, 8, 11],
            prompt_width=256,
            decoder_heads=8,
            decoder_mlp=2048,
        ).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in published.items()}


def test_an_incomplete_sam_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UsageError, match=r"no model\.safetensors"):
        SamMasks(tmp_path, device="cpu")


THIN = [(300, 1), (1, 300), (5000, 2), (1, 1)]


@needs_detector
def test_thin_images_to_a_detector_that_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    """As published Grounding DINO does."""
    folder = shutil.copytree(WEIGHTS / "detector", tmp_path / "detector")
    config = json.loads((folder / "processor_config.json").read_text())
    config["image_processor"]["size"] = {"shortest_edge": 800, "longest_edge": 1333}
    (folder / "processor_config.json").write_text(json.dumps(config))
    detector = GroundingDetector(folder, device="cpu", threshold=0.0, nms=1.0)
    found = detector.detect([Image.new("RGB", size) for size in THIN], [["ring"]] * len(THIN))
    for (width, height), own in zip(THIN, found, strict=True):
        for x0, y0, x1, y1 in (one.box for one in own):
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height


@needs_masks
def test_masks_of_thin_images(sam: SamMasks) -> None:
    boxes = [[(0, 0, width, height), (width // 2, 0, width, height)] for width, height in THIN]
    masks = sam.masks([Image.new("RGB", size, "red") for size in THIN], boxes)
    assert [mask.shape for mask in masks] == [(2, height, width) for width, height in THIN]
