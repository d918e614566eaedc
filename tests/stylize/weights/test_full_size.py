"""The published sizes with random weights: files in the published layouts, to a step of each kind.

pytest -m large -s tests/stylize/weights/test_full_size.py
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 2**30
MOST = 20 * GIB
REPOSITORY = Path(__file__).parents[3]

# each phase in a process of its own: a child's peak is then that of the phase
PRELUDE = """
import json, sys, time
from pathlib import Path
began = time.perf_counter()

def end(**facts):
    status = Path("/proc/self/status").read_text().splitlines()
    [peak] = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")]
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak": peak, **facts}))
"""
WRITE = """
import torch
from tests.stylize.weights import layouts
from tests.stylize.weights.layouts import FULL

name, layout = sys.argv[1:]
tensors = layouts.fill(getattr(layouts, layout)(FULL), dtype=torch.float16)
layouts.save(Path(name), tensors, wrapped=True)
end(numbers=sum(tensor.numel() for tensor in tensors.values()))
"""
CONVERT = """
from pipeline.cli import cli

cli.main(sys.argv[1:], standalone_mode=False)
end(numbers=0)
"""
TRAIN = """
import torch
from stylize import DiffStyle360, FinetuneSettings, Triplets, finetune

model = DiffStyle360.from_pretrained("model")
settings = FinetuneSettings(
    steps=1, batch=1, train="style", precision="fast", gradient_checkpointing=True,
    drop_content=0, drop_both=0, drop_back=0,
)
images = lambda *shape: torch.rand(*shape, 3, 512, 512) * 2 - 1
batch = Triplets(images(1), images(1), images(1), images(1, 2), images(1, 2), ["a"])
losses = []
finetune(model, lambda _: batch, settings, "run", log=lambda step, loss: losses.append(loss))
trained = model.trainable_parameters("style")
end(
    loss=losses[0],
    trained=len(trained),
    with_gradient=sum(p.grad is not None for p in model.parameters()),
    finite=all(bool(p.isfinite().all()) for p in trained.values()),
    numbers=sum(p.numel() for p in trained.values()),
)
"""
SAMPLE = """
import torch
from stylize import DiffStyle360, stylize_views
from stylize.back_view import generate_back
from stylize.sampling import Sampling

model = DiffStyle360.from_pretrained("model", torch.bfloat16).eval()
images = lambda *shape: torch.rand(*shape, 3, 512, 512) * 2 - 1
front, hint, style = images(1), images(1, 2), images()
back = generate_back(model, front, hint[:, 0], Sampling(steps=1), [0])
views = stylize_views(model, front, back, hint, style, Sampling(steps=1), [0])
plain = stylize_views(model, front, back, hint, style, Sampling(steps=1, presence=0), [0])
end(
    shape=list(views.shape),
    finite=bool(views.isfinite().all() and back.isfinite().all()),
    differ=float((views - plain).abs().max()),
)
"""


def run(script: str, *arguments: str, cwd: Path) -> dict:
    """The facts that the last line of a child's output holds."""
    path = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})"
    done = subprocess.run(
        [sys.executable, "-c", path + PRELUDE + script, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    facts = json.loads(last)
    print(*lines, f"{facts['seconds']:.0f} s, {facts['peak'] / GIB:.1f} GiB at most", sep="\n")
    return facts


@pytest.mark.large
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_published_checkpoints_to_a_trained_step_and_views(tmp_path: Path) -> None:
    files = {
        "sd.ckpt": "stable_diffusion",
        "model_state.th": "multiview",
        "back_head.th": "back_view",
    }
    for name, layout in files.items():
        run(WRITE, name, layout, cwd=tmp_path)
    command = ["convert-stylizer", "model", "--base", "sd.ckpt"]
    command += ["--multiview", "model_state.th", "--back-view", "back_head.th"]
    assert run(CONVERT, *command, cwd=tmp_path)["peak"] < MOST
    for name in files:
        (tmp_path / name).unlink()
    assert (tmp_path / "model" / "model.safetensors").stat().st_size > 2 * 4.7e9
    trained = run(TRAIN, cwd=tmp_path)
    assert trained["peak"] < MOST
    assert trained["loss"] > 0
    assert trained["finite"]
    assert trained["trained"] == trained["with_gradient"] == 216
    sampled = run(SAMPLE, cwd=tmp_path)
    assert sampled["peak"] < MOST
    assert sampled["shape"] == [1, 2, 3, 512, 512]
    assert sampled["finite"]
    assert sampled["differ"] > 0
    shutil.rmtree(tmp_path / "model")
    shutil.rmtree(tmp_path / "run")
