from typing import Any

import pytest
import torch

from pipeline.judges import Judges, Pictures
from pipeline.stages.measures import OURS, Label, Subject, baselines, measure, thumbnails

OUTPUT: Label = (OURS, "ink")


def draw(views: int, seed: int) -> Pictures:
    images = torch.rand(views, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) - 0.8
    mask = torch.zeros(views, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    return Pictures(torch.where(mask > 0, images, 1.0), mask)


@pytest.fixture
def portrait() -> Subject:
    """One view of content, the last of four views of an output being as near to the front."""
    yaws = torch.tensor([0.0, 90.0, 180.0, -30.0]).double()
    return Subject(yaws=yaws, content=draw(1, 0), at=[0], style=draw(1, 1))


def values(rows: list[dict[str, Any]], name: str) -> list[float | None]:
    return [row.get(name) for row in rows[:-1]]


def test_a_portrait_is_compared_where_it_is_seen(portrait: Subject) -> None:
    methods: dict[Label, Pictures] = {(m, None): p for m, p in baselines(portrait).items()}
    methods[OUTPUT] = draw(4, 2)
    measured = measure(portrait, methods, Judges())
    assert [row.get("view") for row in measured[OUTPUT]] == [0, 1, 2, 3, None]
    assert [row.get("view") for row in measured["copy_content", None]] == [0, None]
    assert values(measured[OUTPUT], "silhouette") == [1, None, None, None]
    assert values(measured[OUTPUT], "spill") == [0, None, None, None]
    steps = values(measured[OUTPUT], "step")
    first, *_, last = (step for step in steps if step is not None)
    assert measured[OUTPUT][-1]["seam"] == pytest.approx(3 * last / sum(steps[:-1]))
    assert first > 0
    assert "step" not in measured["copy_content", None][0]  # one view is no circle


def test_faces_are_those_near_the_front(portrait: Subject) -> None:
    def colour(images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    judges: Any = Judges
    output = draw(4, 2)
    [*rows, _] = measure(portrait, {OUTPUT: output}, judges(arcface=colour))[OUTPUT]
    ours, content, style = (
        torch.nn.functional.normalize(colour(p.images), dim=-1)
        for p in (output, portrait.content, portrait.style)
    )
    for row, face in zip(rows, ours, strict=True):
        if row["view"] in (1, 2):
            assert row["identity"] is None
            assert row["leakage"] is None
            continue
        assert row["identity"] == pytest.approx(float(face @ content[0]), abs=1e-6)
        due = float((face - content[0]) @ style[0])
        assert row["leakage"] == pytest.approx(due, abs=1e-6)


def test_the_truth_is_the_bound(portrait: Subject) -> None:
    portrait.content, portrait.at = draw(4, 0), [0, 1, 2, 3]
    portrait.truth = draw(4, 3)
    portrait.identities = [thumbnails(draw(4, 4))]
    methods: dict[Label, Pictures] = {(m, None): p for m, p in baselines(portrait).items()}
    assert [method for method, _ in methods] == ["truth", "copy_content", "transfer_statistics"]
    measured = measure(portrait, methods, Judges())
    assert values(measured["truth", None], "ssim") == pytest.approx([1] * 4)
    assert values(measured["truth", None], "psnr") == [None] * 4  # infinite
    assert values(measured["truth", None], "own_identity") == [1] * 4
    assert values(measured["truth", None], "own_style") == [None] * 4  # no other styles
    assert all(value for value in values(measured["copy_content", None], "psnr"))
