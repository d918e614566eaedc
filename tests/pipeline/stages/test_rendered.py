import math

import pytest
import torch

import eg3d_renderer as er
from pipeline.folders import RunFolder
from pipeline.stages.rendered import Rendered, yaws


def test_yaws_are_those_of_the_orbit() -> None:
    cameras = er.cameras.orbit(8, elevation=20.0)
    assert yaws(cameras).tolist() == [0, 45, 90, 135, 180, -135, -90, -45]


def test_a_subject_is_read_at_the_size_of_the_outputs(made_run: RunFolder) -> None:
    rendered = Rendered(made_run, "test")
    [key] = rendered.keys
    subject = rendered.subject(key, "statue", 16)
    assert subject.content.images.shape == (4, 3, 16, 16)
    assert subject.content.mask.shape == (4, 1, 16, 16)
    assert subject.style.images.shape == (1, 3, 16, 16)
    assert subject.at == [0, 1, 2, 3]
    assert subject.truth is not None
    assert subject.truth.depth is not None
    assert subject.truth.depth.shape == (4, 1, 32, 32)  # as it was rendered
    depth = subject.truth.depth
    assert math.isclose(float(depth.max()), subject.truth.background)
    assert not torch.equal(depth, depth.flip(0))
    assert (subject.identities, subject.styles) == ([], [])  # there are no others


@pytest.mark.parametrize(
    ("key", "expected"), [("a", "bcde"), ("b", "cdef"), ("e", "fgab"), ("g", "abcd")]
)
def test_others_come_after_it_going_round(
    made_run: RunFolder, monkeypatch: pytest.MonkeyPatch, key: str, expected: str
) -> None:
    rendered = Rendered(made_run, "test")
    monkeypatch.setattr(type(rendered.columns["render"]), "keys", list("abcdefg"))
    assert rendered._others("render", key) == list(expected)
