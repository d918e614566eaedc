"""Rigs as one writes them on a command line."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eg3d_renderer import RendererError, cameras
from eg3d_renderer.cameras.notation import EXAMPLES, FORMS


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("orbit:32", {"kind": "orbit", "views": 32}),
        ("orbit:32,elevation=10", {"kind": "orbit", "views": 32, "elevation": 10.0}),
        (
            "grid:7x3,yaw=-45..45,elevation=-15.5..30",
            {
                "kind": "grid",
                "columns": 7,
                "rows": 3,
                "yaw": (-45.0, 45.0),
                "elevation": (-15.5, 30.0),
            },
        ),
        (
            "spiral:60,turns=2.5,elevation=40..-20",
            {"kind": "spiral", "views": 60, "turns": 2.5, "elevation": (40.0, -20.0)},
        ),
        (
            "random:64,seed=3,yaw=-180..180,radius=2.5..3",
            {
                "kind": "random",
                "views": 64,
                "seed": 3,
                "yaw": (-180.0, 180.0),
                "radius": (2.5, 3.0),
            },
        ),
        (
            "random:6,radius=2.5,pivot=0/-.1/0.2,focal=4",
            {
                "kind": "random",
                "views": 6,
                "radius": 2.5,
                "pivot": (0.0, -0.1, 0.2),
                "focal": 4.0,
            },
        ),
        ("file:a,b.txt", {"kind": "explicit", "file": "a,b.txt"}),
        ("some/rig.json", {"kind": "explicit", "file": "some/rig.json"}),
        ("C:/some/rig.json", {"kind": "explicit", "file": "C:/some/rig.json"}),
    ],
)
def test_what_is_written_is_what_is_meant(text: str, fields: dict[str, Any]) -> None:
    assert cameras.parse_rig(text) == fields


@pytest.mark.parametrize("kind", FORMS)
def test_examples_can_be_made_and_all_keywords_are_the_functions(kind: str) -> None:
    fields = cameras.parse_rig(EXAMPLES[kind])
    assert cameras.make_rig(**fields).shape[1] == 25
    known = cameras.rigs.inspect.signature(cameras.rigs.RIGS[kind]).parameters
    assert set(FORMS[kind]) | set(cameras.notation.COUNTS[kind]) == set(known)


@given(st.integers(1, 9), st.floats(-89, 89), st.tuples(*3 * [st.floats(-0.2, 0.2)]))
def test_numbers_come_back_as_they_were(views: int, elevation: float, pivot: Any) -> None:
    text = f"orbit:{views},elevation={elevation!r},pivot={'/'.join(map(repr, pivot))}"
    made = cameras.make_rig(**cameras.parse_rig(text))
    assert torch.equal(made, cameras.orbit(views, elevation=elevation, pivot=pivot))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no kind ''; known: orbit, grid, spiral, random, file; for example orbit:32"),
        ("orbti:3", "no kind 'orbti'; did you mean 'orbit'?; for example orbit:32"),
        ("orbit", "'' is no number of views; for example orbit:32"),
        ("orbit:many", "'many' is no number of views; for example orbit:32"),
        ("orbit:3x4", "'3x4' is no number of views; for example orbit:32"),
        ("grid:7", "'7' is no number of columns x rows; for example grid:7x3"),
        ("orbit:3,elevaton=2", "no 'elevaton'; did you mean 'elevation'?; for example orbit"),
        ("orbit:3,", "no ''; known: radius, pivot, focal, elevation; for example orbit"),
        ("orbit:3,elevation", "elevation cannot be ''; for example orbit"),
        ("orbit:3,elevation=1..2", "elevation cannot be '1..2'; for example orbit"),
        ("orbit:3,elevation=1,elevation=1", "elevation is given twice; for example orbit"),
        ("orbit:3,pivot=0/1", "pivot cannot be '0/1'; for example orbit"),
        ("grid:7x3,yaw=45", "yaw cannot be '45'; for example grid"),
        ("random:7,radius=1..2..3", "radius cannot be '1..2..3'; for example random"),
        ("random:7,seed=1.5", "seed cannot be '1.5'; for example random"),
        ("file:", "names no file; for example file:cameras.json"),
    ],
)
def test_mistakes_are_explained_in_one_line(text: str, said: str) -> None:
    with pytest.raises(RendererError) as caught:
        cameras.parse_rig(text)
    assert str(caught.value).startswith(f"rig {text!r}: {said}")
    assert "\n" not in str(caught.value)
