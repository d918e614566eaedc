import pytest

from eg3d_renderer import sheet
from eg3d_renderer.demo.styles import STYLES


def test_sheet_has_a_row_an_identity_and_a_column_a_style(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "SIZE", 16)
    picture = sheet.sheet()
    assert picture.size == (16 * len(STYLES), 16 * (len(sheet.TURNED) + len(sheet.STYLED)))
    assert len(picture.getcolors(maxcolors=1 << 20)) > 100
