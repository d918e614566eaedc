import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same numbers in every run, and in whatever order."""
    torch.manual_seed(0)
