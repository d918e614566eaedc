"""Distances between two sets of features, such as those of an Inception network."""

import torch

CHUNK = 1024  # rows of a kernel matrix at a time


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Frechet distance of the Gaussians with the sets' means and covariances (Heusel et al. 2017).

    first [N, F], second [M, F], N and M at least 2, else NaN. With centred features A and B, tr
    sqrt(cov A cov B) is the sum of the singular values of A B^T, over sqrt((N - 1) (M - 1)), so no
    square root of a singular matrix is taken. Few samples bias it upwards.
    """
    if min(len(first), len(second)) < 2:
        return float("nan")
    a, b = first.double(), second.double()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    a, b = (_triangle((x - x.mean(0)) / (len(x) - 1) ** 0.5) for x in (a, b))
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return float((gap + a.square().sum() + b.square().sum() - 2 * cross).clamp(min=0))


def kernel_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / F + 1)^3 (Binkowski et al.
    2018), over all pairs; it may be below 0. first [N, F], second [M, F]; NaN for sets below 2."""
    n, m = len(first), len(second)
    if min(n, m) < 2:
        return float("nan")
    a, b = first.double(), second.double()
    within = sum(
        (_kernel_sum(x, x) - float(_kernel(x.square().sum(1), x.shape[1]).sum()))
        / (len(x) * (len(x) - 1))
        for x in (a, b)
    )
    return within - 2 * _kernel_sum(a, b) / (n * m)


def _triangle(centred: torch.Tensor) -> torch.Tensor:
    """R [min(N, F), F] with R^T R = X^T X."""
    return centred if len(centred) <= centred.shape[1] else torch.linalg.qr(centred, mode="r").R


def _kernel(products: torch.Tensor, features: int) -> torch.Tensor:
    return (products / features + 1) ** 3


def _kernel_sum(a: torch.Tensor, b: torch.Tensor) -> float:
    return sum(float(_kernel(part @ b.T, a.shape[1]).sum()) for part in a.split(CHUNK))
