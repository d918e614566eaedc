import torch
import torch.nn.functional as F

from stylize.metrics.filters import BINOMIAL, GAUSSIAN, blur


def test_blur_is_the_convolution(views):
    for taps in (BINOMIAL, GAUSSIAN):
        row = torch.tensor(taps).double() / sum(taps)
        kernel = torch.outer(row, row).expand(3, 1, -1, -1)
        padded = F.pad(views.double(), (len(taps) // 2,) * 4, mode="reflect")
        torch.testing.assert_close(
            blur(views.double(), taps), F.conv2d(padded, kernel, groups=3), atol=1e-7, rtol=0
        )
