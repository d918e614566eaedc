"""The published sizes, with random weights, through the command line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from eg3d_renderer.ops import native
from pipeline.bench import random_generator
from pipeline.shards.reader import Column
from tests.eg3d_renderer.checkpoints.official_writer import write_generator

GIB = 2**30
# a child's ru_maxrss would begin with that of the process it was forked from
RENDER = """
import sys
from pathlib import Path
from pipeline.cli import cli

cli.main(sys.argv[1:], standalone_mode=False)
status = Path("/proc/self/status")
print(status.read_text() if status.exists() else "")
"""


@pytest.mark.parametrize("family", ["eg3d", "panohead", "spherehead"])
def test_official_file_of_full_size_within_its_memory(family: str, tmp_path: Path) -> None:
    generator = random_generator(family)
    spec = {
        "init_kwargs": {
            "img_resolution": 512,
            "mapping_kwargs": {"num_layers": 2},
            "sr_num_fp16_res": 4,
            "rendering_kwargs": generator.rendering_kwargs,
        },
        "neural_rendering_resolution": 128,
    }
    write_generator(tmp_path / "model.pkl", spec, generator.state_dict())
    command = [sys.executable, "-c", RENDER, "render", "--generator", "model.pkl", "--seeds", "17"]
    command += ["--rig", "orbit:2", "--device", "cpu", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights = sum(t.numel() * t.element_size() for t in generator.state_dict().values())
    most = 1.75 * GIB if native.load("march", "cpu") is None else 6 * GIB
    if peak := re.search(r"VmHWM:\s+(\d+) kB", done.stdout):  # on Linux
        assert int(peak[1]) * 1024 < weights + most
    sample = Column(tmp_path / "out" / "render").read("train-00000000")
    assert sample["view_01.rgb.png"].shape == (512, 512, 3)
    assert sample["view_01.depth.png"].shape == (128, 128)
