"""What every section of a run manifest shares."""

from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import Field

FilePath = Annotated[Path | None, Field(strict=False)]


class Section(pydantic.BaseModel):
    """Strict: no unknown key, no coercion, no NaN, no change after it is read."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )
