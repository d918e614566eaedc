import pytest
import torch

from eg3d_renderer.ops.bias_act import ACTIVATIONS, bias_act
from tests.eg3d_renderer import oracle

TRUTH = oracle.numbers("ops_bias_act")
CASES = oracle.facts("ops_bias_act")["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['case']}-{c['act']}")
def test_values_and_gradients_are_upstreams(case: dict) -> None:
    options = {k: v for k, v in case.items() if k in ("alpha", "gain", "clamp")}
    x, b = TRUTH["x"].clone().requires_grad_(), TRUTH["b"].clone().requires_grad_()
    y = bias_act(x, b if case["bias"] else None, case["act"], **options)
    prefix = f"c{case['case']:02d}_"
    torch.testing.assert_close(y, TRUTH[f"{prefix}y"], rtol=0, atol=1e-6)
    y.backward(TRUTH["dy"])
    torch.testing.assert_close(x.grad, TRUTH[f"{prefix}dx"], rtol=0, atol=1e-5)
    if case["bias"]:
        torch.testing.assert_close(b.grad, TRUTH[f"{prefix}db"], rtol=0, atol=1e-4)


def test_bias_goes_along_the_dimension_named() -> None:
    two = bias_act(TRUTH["x2d"], TRUTH["b2d"], "lrelu")
    torch.testing.assert_close(two, TRUTH["y2d_lrelu"])
    last = bias_act(TRUTH["x"], TRUTH["b_dim3"], "lrelu", dim=3)
    torch.testing.assert_close(last, TRUTH["y_dim3_lrelu"])


def test_every_activation_has_a_case() -> None:
    assert {case["act"] for case in CASES} == set(ACTIVATIONS)


def test_second_gradients_exist() -> None:
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, b: bias_act(x, b, "swish", gain=1.3), (x, b))
