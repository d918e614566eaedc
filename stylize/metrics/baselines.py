"""What a stylizer has to beat without a model. Copy-content, the other one, is the content."""

import torch


def transfer_statistics(
    content: torch.Tensor, mask: torch.Tensor, style: torch.Tensor, style_mask: torch.Tensor
) -> torch.Tensor:
    """Each view's foreground colours get the mean and covariance of the style image's foreground
    (whitening and colouring), the background stays.

    content [V, 3, H, W], style [1, 3, H, W]; views without foreground come back unchanged, and so
    does everything if the style has none.
    """
    target = _colour_statistics(style[0], style_mask[0])
    views = []
    for image, coverage in zip(content, mask, strict=True):
        source = _colour_statistics(image, coverage)
        if source is None or target is None:
            views.append(image)
            continue
        transform = _root(target[1]) @ torch.linalg.inv(_root(source[1]))
        centred = image.double().flatten(1) - source[0].unsqueeze(1)
        moved = (transform @ centred + target[0].unsqueeze(1)).view_as(image).to(image.dtype)
        views.append(torch.lerp(image, moved.clamp(-1, 1), coverage.to(image.dtype)))
    return torch.stack(views)


def _colour_statistics(
    image: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean [3] and covariance [3, 3] of the colours [3, H, W] over the mask [1, H, W]."""
    weights = mask.double().flatten()
    if weights.sum() <= 0:
        return None
    colours = image.double().flatten(1)
    mean = (colours * weights).sum(1) / weights.sum()
    centred = colours - mean.unsqueeze(1)
    return mean, (centred * weights) @ centred.T / weights.sum()


def _root(covariance: torch.Tensor, floor: float = 1e-4) -> torch.Tensor:
    """Symmetric square root, eigenvalues raised to a floor so that it can be inverted."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=floor).sqrt()) @ vectors.T
