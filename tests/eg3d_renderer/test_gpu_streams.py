"""On a GPU: kernels in streams, in graphs and on other devices than the current one."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import eg3d_renderer as er
from eg3d_renderer.marching.depths import draw_depths
from eg3d_renderer.ops import march as marching
from eg3d_renderer.ops.bias_act import bias_act
from eg3d_renderer.ops.upfirdn2d import binomial_filter, upfirdn2d
from pipeline.devices import to_host
from tests.eg3d_renderer.ops.test_cuda_logic import identity_of, rays_of
from tests.eg3d_renderer.test_gpu import prepared

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
LONG = 50_000_000  # cycles that a stream is kept busy for, some hundredths of a second


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    torch.cuda.synchronize()  # what went wrong in a test is told as that test's


def delayed(x: Tensor) -> Tensor:
    """A copy that the current stream makes much later than it is asked."""
    made = torch.full_like(x, torch.nan)
    torch.cuda._sleep(LONG)
    return made.copy_(x)


def kernels(device: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Each op as a function of one tensor [1024, 3] of origins."""
    generator, planes = identity_of("eg3d_tiny_2x")
    s = generator.settings._replace(start=2.2, end=3.3)
    origins, directions = (t.to(device) for t in rays_of(generator, 32))
    draws = draw_depths(None, 1024, s.samples, s.fine_samples, origins.device)
    f = binomial_filter().to(device)
    made: dict[str, Callable[[Tensor], Tensor]] = {
        "bias_act": lambda x: bias_act(x, act="lrelu", impl="native"),
        "upfirdn2d": lambda x: upfirdn2d(x.view(1, 3, 32, 32), f, up=2, impl="native"),
    }
    for precision in ("exact", "fast"):
        scene = prepared(generator, planes, s, precision == "fast", device)
        made[f"march {precision}"] = lambda x, scene=scene: torch.cat(
            [t.view(1024, -1) for t in marching.march(scene, x, directions, draws, 1)], dim=1
        )
    return made


def origins_of(device: str) -> Tensor:
    return rays_of(identity_of("eg3d_tiny_2x")[0], 32)[0].to(device)


@torch.no_grad()
def test_kernels_run_on_the_current_stream() -> None:
    x = origins_of("cuda")
    for name, kernel in kernels("cuda").items():
        expected = kernel(x)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            made = kernel(delayed(x))
        stream.synchronize()
        assert torch.equal(made, expected), name


@torch.no_grad()
def test_kernels_are_captured_in_graphs() -> None:
    x = origins_of("cuda")
    for name, kernel in kernels("cuda").items():
        expected = kernel(x * 1.01)
        still = x.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            kernel(still)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = kernel(still)
        still.copy_(x * 1.01)
        for _ in range(2):
            made.fill_(torch.nan)
            graph.replay()
            assert torch.equal(made, expected), name


@TWO_GPUS
@torch.no_grad()
def test_kernels_run_on_a_device_that_is_not_the_current_one() -> None:
    first, second = kernels("cuda:0"), kernels("cuda:1")
    with torch.cuda.device(0):
        for name, kernel in second.items():
            made = kernel(origins_of("cuda:1"))
            assert made.device == torch.device("cuda:1")
            assert torch.cuda.current_device() == 0
            expected = first[name](origins_of("cuda:0")).cpu()
            torch.testing.assert_close(made.cpu(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_march_refuses_rays_of_another_device() -> None:
    generator, planes = identity_of("eg3d_tiny_2x")
    s = generator.settings
    rays = rays_of(generator, 4)
    draws = draw_depths(None, 16, s.samples, s.fine_samples, torch.device("cpu"))
    for half in (False, True):
        scene = prepared(generator, planes, s, half)
        with pytest.raises((RuntimeError, er.RendererError)):
            marching.march(scene, *rays, draws, 1)
    torch.cuda.synchronize()  # and the GPU is well


@pytest.mark.parametrize("device", ["cuda:0", pytest.param("cuda:1", marks=TWO_GPUS)])
def test_to_host_gives_the_bytes_of_cpu(device: str) -> None:
    with torch.cuda.device(0):
        views = {
            "image": torch.randn(3, 3, 128, 128, device=device),
            "channels last": torch.randn(2, 16, 65, 33, device=device).to(
                memory_format=torch.channels_last
            ),
            "part": torch.randn(9, 9, device=device)[1::2, ::3],
            "bytes": torch.randint(0, 255, [1001], dtype=torch.uint8, device=device),
            "half": torch.randn(77, device=device).half(),
            "empty": torch.empty(0, 3, device=device),
        }
        expected = {name: tensor.cpu() for name, tensor in views.items()}
        with torch.cuda.device(device):  # its values are there much later than it is asked for
            late = delayed(views["image"])
        wait = to_host({**views, "late": late})
        del views
        for _ in range(8):  # what takes the memory of tensors that are not copied yet
            torch.full([3, 3, 128, 128], torch.nan, device=device)
        made = wait()
    for name, tensor in made.items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, expected["image" if name == "late" else name]), name
