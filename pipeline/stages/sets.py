"""Measures of all outputs of one style together: FID, KID and ArtFID, from an Inception network."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.judges import Judges, Pictures
from pipeline.stages.measures import TRUTH
from stylize import metrics


@dataclass
class Sets:
    """What `evaluate` gathers over the identities, by reference and method."""

    features: dict[tuple[str, str], list[torch.Tensor]] = field(default_factory=dict)
    content_lpips: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    styles: dict[str, str | None] = field(default_factory=dict)  # of the references

    def add(
        self,
        reference: str,
        style: str | None,
        method: str,
        pictures: Pictures,
        views: list[dict[str, Any]],
        judges: Judges,
    ) -> None:
        """One identity's pictures, and the rows of its single views; nothing without Inception."""
        features = judges.features("inception", pictures)
        if features is None:
            return
        self.styles[reference] = style
        self.features.setdefault((reference, method), []).append(features)
        values = [row["content_lpips"] for row in views if row.get("content_lpips") is not None]
        self.content_lpips.setdefault((reference, method), []).extend(values)

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per reference and method whose style has a rendered truth; `key` is null.

        FID and KID are to all views of that truth; ArtFID is (1 + LPIPS to content) (1 + FID).
        """
        for (reference, method), parts in self.features.items():
            truth = self.features.get((reference, TRUTH))
            if truth is None:
                continue
            ours, theirs = torch.cat(parts), torch.cat(truth)
            fid = metrics.frechet_distance(ours, theirs)
            values = {"fid": fid, "kid": metrics.kernel_distance(ours, theirs)}
            if distances := self.content_lpips[reference, method]:
                values["artfid"] = (1 + sum(distances) / len(distances)) * (1 + fid)
            names = {"reference": reference, "style": self.styles[reference], "method": method}
            yield names | {n: v if math.isfinite(v) else None for n, v in values.items()}
