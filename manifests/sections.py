"""What every section of a run manifest shares."""

import re
from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import AfterValidator, Field


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise ValueError(f"{name!r}: use up to 64 of a-z, 0-9, '_' and '-'; it names files")
    return name


FilePath = Annotated[Path | None, Field(strict=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, AfterValidator(_check_name)]


class Section(pydantic.BaseModel):
    """Strict: no unknown key, no coercion, no NaN, no change after it is read."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )
