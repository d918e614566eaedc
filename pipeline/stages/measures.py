"""Every measure of one identity in one style: a row per view, and a row for all its views."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.images import resize
from pipeline.judges import Judges, Pictures
from stylize import metrics

THUMBNAIL = 64  # pixels at which outputs are recognised among others
FACE_YAW = 45.0  # degrees to either side within which there is a face to recognise
OURS, TRUTH = "diffstyle360", "truth"
TRUTH_LABEL = (TRUTH, None)
BASELINES = ("copy_content", "transfer_statistics")
ON_HINT = "style_on_hint"  # the hint's identity in the style: all right but the content

Label = tuple[str, str | None]  # a method, and the reference whose output it is, if any
Masked = tuple[torch.Tensor, torch.Tensor]  # images and mask of thumbnails


@dataclass
class Subject:
    """What outputs of one identity in one style are measured against. V views, N of them of
    content."""

    yaws: torch.Tensor  # [V] degrees, 0 is the front
    content: Pictures  # N views
    at: list[int]  # which of the V views those are
    style: Pictures  # 1 view: the style image
    truth: Pictures | None = None  # V views
    cameras: torch.Tensor | None = None  # [V, 25]
    identities: list[Masked] = field(default_factory=list)  # truths of others in the same style
    styles: list[Masked] = field(default_factory=list)  # truths of the same one in other styles


def baselines(subject: Subject) -> dict[str, Pictures]:
    """The methods that take no model, and the truth as their bound; content's views only."""
    content, style = subject.content, subject.style
    moved = metrics.transfer_statistics(content.images, content.mask, style.images, style.mask)
    made = dict(zip(BASELINES, (content, Pictures(moved, content.mask)), strict=True))
    return made if subject.truth is None else {TRUTH: subject.truth} | made


def measure(
    subject: Subject, methods: dict[Label, Pictures], judges: Judges
) -> dict[Label, list[dict[str, Any]]]:
    """Rows of each method: `view`, `yaw` and measures of every view, then a row of all of them
    together (without a view). A measure without a value is None.

    A method has as many views as the subject, or as its content.
    """
    warped, measured = _warp(subject, methods), {}
    for label, pictures in methods.items():
        at = list(range(len(subject.yaws)))
        if len(pictures.images) != len(at):
            at = subject.at
        of_views = _of_views(subject, pictures, at, is_truth=label == TRUTH_LABEL)
        of_views |= _of_judges(subject, pictures, at, judges)
        of_all = {"style_distance": _style_distance(subject, pictures)}
        steps = of_views.get("step")
        if label in warped:
            of_views["warp"] = steps = warped[label]
            if TRUTH_LABEL in warped:
                of_all["consistency"] = metrics.geometric_consistency(steps, warped[TRUTH_LABEL])
        if steps is not None:
            of_all["seam"] = metrics.seam_ratio(steps)
        columns = {name: _finite(values) for name, values in of_views.items()}
        rows: list[dict[str, Any]] = [
            {"view": view, "yaw": float(subject.yaws[view])}
            | {name: values[i] for name, values in columns.items()}
            for i, view in enumerate(at)
        ]
        together = {n: v if math.isfinite(v) else None for n, v in of_all.items()}
        measured[label] = [*rows, together]
    return measured


def thumbnails(pictures: Pictures) -> Masked:
    """The pictures as small as outputs are compared in `Subject.identities` and `.styles`."""
    size = min(THUMBNAIL, pictures.images.shape[-1])
    return resize(pictures.images, size), resize(pictures.mask, size)


def _warp(subject: Subject, methods: dict[Label, Pictures]) -> dict[Label, torch.Tensor]:
    """Warp errors [V] of all methods at once, at the size of the depth; none without it."""
    depth = subject.content.depth
    if depth is None or subject.cameras is None or len(depth) < 2:
        return {}
    sets = [resize(pictures.images, depth.shape[-1]) for pictures in methods.values()]
    errors = metrics.warp_errors(
        sets, depth, subject.cameras, background=subject.content.background
    )
    return dict(zip(methods, errors, strict=True))


def _of_views(
    subject: Subject, pictures: Pictures, at: list[int], *, is_truth: bool
) -> dict[str, torch.Tensor]:
    """The measures of single views without weights, each [len(at)]."""
    content, truth = subject.content, subject.truth
    there = [at.index(view) for view in subject.at if view in at]
    images = pictures.images
    seen = images[there]  # the views that content has, in its order
    foreground = metrics.estimate_foreground(seen)
    measured = {
        "silhouette": metrics.silhouette_iou(foreground, content.mask),
        "spill": metrics.spill(foreground, (truth or content).mask),
    }
    measured = {name: _spread(values, there, len(at)) for name, values in measured.items()}
    if len(images) > 1:
        measured["step"] = metrics.step_errors(images, metrics.estimate_foreground(images))
    if truth is None:
        return measured
    small, of_truth = thumbnails(pictures)[0], thumbnails(truth)
    measured |= {
        "psnr": metrics.masked_psnr(images, truth.images, content.mask),
        "ssim": metrics.masked_ssim(images, truth.images, content.mask),
        "sharpness": metrics.sharpness(images, truth.images, content.mask),
        "own_identity": metrics.nearer_share(small, of_truth, subject.identities),
        "own_style": metrics.nearer_share(small, of_truth, subject.styles),
    }
    if is_truth and truth.depth is not None and content.depth is not None:
        measured["depth_agreement"] = metrics.depth_agreement(
            truth.depth, content.depth, background=content.background
        )
    return measured


def _of_judges(
    subject: Subject, pictures: Pictures, at: list[int], judges: Judges
) -> dict[str, torch.Tensor]:
    """The measures of single views with the user's weights, as far as those were given."""
    measured = {}
    for judge in ("clip", "csd"):
        ours = judges.features(judge, pictures)
        style = judges.features(judge, subject.style)
        if ours is not None and style is not None:
            measured[judge] = (ours @ style[0]).double()
    there = [at.index(view) for view in subject.at if view in at]
    to_content = judges.distances(pictures.images[there], subject.content.images)
    if to_content is not None:
        measured["content_lpips"] = _spread(to_content, there, len(at))
        if subject.truth is not None:
            to_truth = judges.distances(pictures.images, subject.truth.images)
            assert to_truth is not None
            measured["lpips"] = to_truth
    return measured | _of_faces(subject, pictures, at, judges)


def _of_faces(
    subject: Subject, pictures: Pictures, at: list[int], judges: Judges
) -> dict[str, torch.Tensor]:
    """ArcFace: nearness to the content's face, and to the style image's beyond what is due.

    Each view that shows a face is compared with the content's view nearest in yaw. Its leakage is
    the cosine to the style image's face less that of the truth (of content, where there is no
    truth): what two different people in one style have anyway does not count.
    """
    ours = judges.features("arcface", pictures)
    content = judges.features("arcface", subject.content)
    style = judges.features("arcface", subject.style)
    if ours is None or content is None or style is None:
        return {}
    yaws, known = subject.yaws[at], subject.yaws[subject.at]
    nearest = _turned(yaws[:, None], known[None]).argmin(1)  # [len(at)]
    due = (content @ style[0])[nearest]
    if subject.truth is not None:
        truth = judges.features("arcface", subject.truth)
        assert truth is not None
        due = truth @ style[0]
    shows = (_turned(yaws, 0.0) <= FACE_YAW) & (_turned(known[nearest], 0.0) <= FACE_YAW)
    identity, leakage = (ours * content[nearest]).sum(1), ours @ style[0] - due
    nothing = torch.full_like(identity, torch.nan)
    return {
        "identity": torch.where(shows, identity, nothing).double(),
        "leakage": torch.where(shows, leakage, nothing).double(),
    }


def _style_distance(subject: Subject, pictures: Pictures) -> float:
    mask = pictures.mask
    if len(pictures.images) == len(subject.content.images):
        mask = subject.content.mask
    if "profile" not in subject.style.features:
        profile = metrics.style_profile(subject.style.images, subject.style.mask)
        subject.style.features["profile"] = torch.empty(0) if profile is None else profile
    style = subject.style.features["profile"]
    if not len(style):
        return math.nan
    return metrics.profile_distance(metrics.style_profile(pictures.images, mask), style)


def _turned(yaw: torch.Tensor, other: torch.Tensor | float) -> torch.Tensor:
    """How many degrees one has to turn from one yaw to the other, 0..180."""
    return ((yaw - other + 180) % 360 - 180).abs()


def _spread(values: torch.Tensor, there: list[int], count: int) -> torch.Tensor:
    """Values of some views among `count`, the others NaN."""
    spread = torch.full((count,), torch.nan, dtype=torch.float64)
    spread[there] = values.double()
    return spread


def _finite(values: torch.Tensor) -> list[float | None]:
    """A measure without a value is null in Parquet."""
    return [value if math.isfinite(value) else None for value in values.tolist()]
