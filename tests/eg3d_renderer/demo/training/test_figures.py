import cmath
import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

import eg3d_renderer as er
from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.training import figures, sheets
from eg3d_renderer.demo.training.sheets import Views

SEEDS = range(figures.FIRST_SEED, figures.FIRST_SEED + 4)
CAM = er.cameras.orbit(2, elevation=5)
PERFECT = {
    "psnr": 100,
    "psnr_head": 100,
    "iou": 1,
    "depth_error": 0,
    "back_ghost": 1,
    "face_behind": 0,
    "sharpness": 1,
}


@pytest.fixture(scope="module")
def truth() -> ProceduralHeads:
    return ProceduralHeads()


@pytest.fixture(scope="module")
def seen(truth: ProceduralHeads) -> Views:
    return sheets.view(truth, er.latents([SEEDS[0]], 48), CAM)


def flat(*colours: tuple[float, float, float], size: int = 8) -> Tensor:
    """Images of one colour each, [V, 3, size, size]."""
    return torch.tensor(colours)[..., None, None].expand(-1, -1, size, size).clone()


def views(image: Tensor) -> Views:
    whole = torch.ones_like(image[:, 0])
    return Views(image, 2.7 * whole, whole)


def turned(hues: list[float], chroma: float = 0.3) -> list[complex]:
    return [cmath.rect(chroma, math.radians(hue)) for hue in hues]


def test_the_truth_against_itself_is_perfect(truth: ProceduralHeads) -> None:
    found = figures.measure(truth, truth, SEEDS, yaws=2)
    assert {name: found[name] for name in PERFECT} == pytest.approx(PERFECT, abs=1e-9)
    assert found["right_z"] > 70
    assert found["iris_hue"] == pytest.approx(1)
    assert found["hair_hue"] == pytest.approx(1)


def test_one_head_has_no_wrong_z_and_no_correlation(truth: ProceduralHeads) -> None:
    found = figures.measure(truth, truth, SEEDS[:1], yaws=2)
    assert all(math.isnan(found[name]) for name in ("right_z", "iris_hue", "hair_hue"))
    assert {name: found[name] for name in PERFECT} == pytest.approx(PERFECT, abs=1e-9)


def test_psnr_is_of_each_view() -> None:
    image, true = flat((0.5, 0.5, 0.5), (0.6, 0.6, 0.6)), flat((0.6, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert figures.psnr(image, true).tolist() == pytest.approx([10 * math.log10(300), 20], abs=1e-3)
    where = torch.zeros(2, 8, 8, dtype=torch.bool)
    where[:, :2] = True
    true[:, :, :2] = image[:, :, :2]
    assert figures.psnr(image, true, where).tolist() == [100, 100]


def test_the_head_box_is_around_the_head(truth: ProceduralHeads, seen: Views) -> None:
    box = sheets.head_box(CAM, 128)
    assert box.any(2).sum(1).tolist() == pytest.approx([96, 96], abs=1)
    assert box.any(1).sum(1).tolist() == pytest.approx([81, 81], abs=1)
    eyes = torch.tensor([[head.eye_x, 0, 0.75] for head in [truth.head(torch.zeros(1, 48))]])
    u, v, _ = sheets.project(CAM[:1], eyes)
    assert box[0, int(v[0, 0] * 128), int(u[0, 0] * 128)]
    assert not box[:, -1].any()  # shoulders


def test_places_project_to_their_own_pixels(seen: Views) -> None:
    places = sheets.head_places(CAM, seen.depth)
    u, v, _ = sheets.project(CAM[1:], places[1].view(-1, 3))
    centres = er.cameras.pixel_centres(128)
    assert torch.allclose(u.view(128, 128), centres.expand(128, 128), atol=1e-4)
    assert torch.allclose(v.view(128, 128), centres[:, None].expand(128, 128), atol=1e-4)


def test_iou_of_known_masks() -> None:
    left, top, none = (torch.zeros(4, 4) for _ in range(3))
    left[:, :2], top[:2] = 1, 0.6
    found = figures.iou(torch.stack([left, left, none]), torch.stack([left, top, none]))
    assert found.tolist() == pytest.approx([1, 1 / 3, 1])


def test_depth_errors_count_where_both_have_a_surface() -> None:
    true = views(flat((0, 0, 0)))
    render = true._replace(depth=true.depth * 1.01, mask=true.mask.clone())
    render.mask[:, :4] = 0.4
    errors = figures.depth_errors(render, true)
    assert len(errors) == 32
    assert torch.allclose(errors, torch.tensor(0.01), atol=1e-6)


def test_right_z_is_the_distance_to_the_next_head() -> None:
    true = [views(flat((v, v, v))) for v in (0.2, 0.3, 0.4)]
    near = [views(flat((v, v, v))) for v in (0.21, 0.31, 0.41)]
    wrong = (20.915 + 20.915 + 13.556) / 3  # off by 0.09, 0.09 and 0.21
    assert figures.right_over_wrong(near, true) == pytest.approx(40 - wrong, abs=1e-2)


@pytest.mark.parametrize(
    ("colour", "hue"), [((0.8, 0.2, 0.2), 0), ((0.2, 0.8, 0.2), 120), ((0.3, 0.3, 0.5), 240)]
)
def test_mean_hue_of_known_colours(colour: tuple[float, float, float], hue: float) -> None:
    found = figures.mean_hue(flat(colour)[0].flatten(1))
    assert math.degrees(cmath.phase(found)) % 360 == pytest.approx(hue, abs=1e-3)
    assert abs(found) == pytest.approx(max(colour) - min(colour), abs=1e-6)


def test_mean_hue_is_weighted_by_chroma() -> None:
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.5, 0.5, 0.5]]).T
    assert cmath.phase(figures.mean_hue(colours)) == pytest.approx(0)
    assert figures.mean_hue(colours[:, :0]) == 0


def test_hue_correlation_of_known_hues() -> None:
    hues = turned([10, 50, 130, 220, 300])
    mirrored = [hue.conjugate() for hue in hues]
    rotated = [2 * hue * 1j for hue in hues]
    for other, correlation in ((hues, 1), (rotated, 1), (mirrored, -1)):
        pairs = list(zip(other, hues, strict=True))
        assert figures.hue_correlation([*pairs, None]) == pytest.approx(correlation)


def test_swapped_hues_do_not_correlate() -> None:
    hues = turned([0, 90, 180, 270])
    swapped = [hues[i] for i in (1, 0, 2, 3)]
    assert abs(figures.hue_correlation(list(zip(swapped, hues, strict=True)))) < 0.1


def test_hues_that_do_not_differ_have_no_correlation() -> None:
    hues = turned([20, 20, 20])
    assert math.isnan(figures.hue_correlation(list(zip(hues, hues, strict=True))))
    assert math.isnan(figures.hue_correlation([None, None, *zip(hues[:2], hues, strict=False)]))


def test_irises_and_hair_are_found_by_their_colours(truth: ProceduralHeads) -> None:
    w = torch.zeros(1, 48)
    w[0, 11], w[0, 14], w[0, 27:31] = 0.9, 0.5, torch.tensor([0.9, 0.6, 0.8, -0.3])
    head = truth.head(w)  # wide open blue eyes, red short hair
    image = truth.synthesis(w[None], CAM[:1])
    seen = Views(image["image"] / 2 + 0.5, image["image_depth"][:, 0], image["image_mask"][:, 0])
    places = sheets.head_places(CAM[:1], seen.depth)[0]
    iris, hair = figures.region_hues(seen, seen, places, head)
    assert iris is not None
    assert hair is not None
    assert iris[0] == iris[1]
    assert 180 < math.degrees(cmath.phase(iris[1])) % 360 < 260
    assert 0 < math.degrees(cmath.phase(hair[1])) < 30


def test_grey_or_hidden_regions_have_no_hue(truth: ProceduralHeads, seen: Views) -> None:
    head = truth.head(truth.mapping(er.latents([SEEDS[0]], 48))[0])
    places = sheets.head_places(CAM, seen.depth)[0]
    grey = seen._replace(image=seen.image.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    assert figures.region_hues(seen, grey, places, head) == (None, None)
    assert figures.region_hues(seen, seen, places + 9, head) == (None, None)


def test_a_planted_face_shows_on_the_back(seen: Views) -> None:
    places, back = sheets.head_places(CAM, seen.depth), sheets.facing_back(CAM)
    assert back.tolist() == [False, True]
    blurred = torch.nn.functional.avg_pool2d(seen.image, 5, 1, 2)
    clean = seen._replace(image=blurred)
    planted = seen._replace(image=blurred.clone())
    front = seen.image[0].flip(-1)
    where, _ = sheets.back_of_head(seen.mask[1:], places[1:])
    planted.image[1] += 0.4 * where * (front - front.mean((1, 2), keepdim=True))
    ghosts = [figures.back_ghost([(render, seen)], [places], back) for render in (clean, planted)]
    assert ghosts[1] > 1.5 * ghosts[0]
    behind = [
        figures.face_behind([(render, seen)], [places], CAM, back) for render in (clean, planted)
    ]
    assert behind[0] == pytest.approx(0, abs=0.03)
    assert behind[1] == pytest.approx(0.4, abs=0.1)


def test_sharpness_of_known_gradients() -> None:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    true, halved = views(image), views(image / 2)
    assert figures.sharpness([(halved, true)]) == pytest.approx(0.25)
    edge = halved._replace(image=halved.image.clone())
    edge.image[:, :, :2] = 5  # outside, and where inside and outside meet
    part = true._replace(mask=true.mask.clone())
    part.mask[:, :2] = 0.9
    assert figures.sharpness([(edge, part)]) == pytest.approx(0.25)


def test_a_folder_without_weights_is_refused_in_one_line(tmp_path: Path) -> None:
    told = CliRunner().invoke(figures.main, [str(tmp_path), str(tmp_path / "out")])
    assert told.exit_code == 2
    assert "manifest.json: No such file" in told.output
    assert told.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_report_is_figures_and_sheets(truth: ProceduralHeads, tmp_path: Path) -> None:
    figures.report({"natural": (truth, truth)}, tmp_path, heads=1, views=1)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["heads"] == written["views"] == 1
    assert written["styles"]["natural"]["iou"] == 1
    assert written["styles"]["natural"]["right_z"] is None
    assert Image.open(tmp_path / "natural.png").size == (8 * 128, 2 * 128)
    assert Image.open(tmp_path / "styles.png").size == (128, 4 * 128)
