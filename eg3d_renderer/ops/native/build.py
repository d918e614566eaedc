"""Sources to shared libraries, in a cache that all jobs of a user share.

A library lies in a folder of its own named by a digest of all that it depends on, and appears there
whole: it is built in a folder beside and renamed. A hundred jobs that start at once take turns at a
lock, the first builds; where the file system has no locks, some build for nothing and nobody is
harmed.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops.native import compilers

OPS_FOLDER = Path(__file__).parents[1]
PREBUILT = Path(__file__).parent / "prebuilt"  # libraries that came in a wheel


def cache_folder() -> Path:
    """$DIFFSTYLE360_CACHE, or diffstyle360 in the user's cache folder."""
    if named := os.environ.get("DIFFSTYLE360_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffstyle360"


def find_or_build(op: str, backend: str, isas: tuple[str, ...]) -> Path:
    """The shared library of an op for "cpu" or "cuda".

    Raises RendererError, in one line, where it has to be compiled and cannot be.
    """
    prebuilt = PREBUILT / library_name(op, backend)
    return prebuilt if prebuilt.is_file() else build(op, backend, isas, cache_folder())


def library_name(op: str, backend: str) -> str:
    """What a library is called that comes with the package: it tells stale sources, not compilers,
    since a machine that needs it may have none."""
    sources = _digest([f"{path.name} {path.read_text()}" for path in _sources(op)])
    return f"{op}-{backend}-{platform.machine()}-{sources[:16]}.so"


def build(op: str, backend: str, isas: tuple[str, ...], cache: Path) -> Path:
    """The library of an op in `cache`, compiled if it is not there. Raises RendererError."""
    recipe = _recipe(op, backend, isas)
    texts = [f"{path.name} {path.read_text()}" for path in _sources(op)]
    folder = cache / "ops" / f"{op}-{backend}-{_digest([recipe, *texts])[:16]}"
    library = folder / "op.so"
    if library.is_file():
        return library
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_suffix(".lock")):
            if not library.is_file():
                print(f"diffstyle360: compiling {op} for {backend}, once", file=sys.stderr)
                _compile(op, recipe, folder)
    except OSError as error:
        raise RendererError(f"{error.filename or folder}: {error.strerror or error}") from None
    return library


def _recipe(op: str, backend: str, isas: tuple[str, ...]) -> str:
    """The rules of the ninja file, which name compilers, versions and flags, but no places."""
    commands: dict[str, str] = {}  # by object
    if backend == "cuda":
        compiler = compilers.cuda_compiler()
        flags = shlex.join(compilers.cuda_flags(compilers.cuda_architectures()))
        commands["kernel.o"] = f"{compiler.path} -c {flags} '$ops/{op}/kernel.cu' -o kernel.o"
        libraries = compilers.TORCH_LIBRARIES  # nvcc adds its own
    else:
        compiler = compilers.cpp_compiler()
        common = f"{compiler.path} -c -std=c++20 -fPIC"
        for isa in isas:
            if isa in compilers.ISAS:
                flags = shlex.join(
                    [*compilers.KERNEL_FLAGS, *compilers.OPENMP_FLAGS, *compilers.ISAS[isa]]
                )
                commands[f"{isa}.o"] = (
                    f"{common} {flags} -DISA={isa} '$ops/{op}/kernel.cpp' -o {isa}.o"
                )
        flags = shlex.join(compilers.BINDING_FLAGS)
        commands["binding.o"] = f"{common} {flags} '$ops/{op}/binding.cpp' -o binding.o"
        libraries = [*compilers.TORCH_LIBRARIES, *compilers.OPENMP_FLAGS]
    objects = " ".join(commands)
    commands["op.so"] = f"{compiler.path} -shared {objects} -o op.so {shlex.join(libraries)}"
    lines = [f"# torch {torch.__version__}, {compiler.version}"]
    for target, command in commands.items():
        rule = target.replace(".", "_")
        needs = objects if target == "op.so" else ""
        lines += [f"rule {rule}", f"  command = {command}", f"build {target}: {rule} {needs}"]
    return "\n".join(lines) + "\n"


def _compile(op: str, recipe: str, folder: Path) -> None:
    """Build beside `folder` and rename to it, or raise RendererError with the compiler's reason."""
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        places = f"ops = {OPS_FOLDER}\ntorch = {compilers.TORCH}\n"
        (work / "build.ninja").write_text(places + recipe)
        done = subprocess.run(
            [sys.executable, "-m", "ninja", "--quiet"], cwd=work, capture_output=True, text=True
        )
        if done.returncode:
            raise RendererError(f"{op} does not compile: {_reason(done.stdout + done.stderr)}")
        work.chmod(0o755)
        with contextlib.suppress(OSError):  # another job was faster, without locks
            work.rename(folder)
        if not (folder / "op.so").is_file():
            raise RendererError(f"{folder}: cannot be written; set DIFFSTYLE360_CACHE elsewhere")
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sources(op: str) -> list[Path]:
    shared = sorted(Path(__file__).parent.glob("*.h"))
    return [
        path
        for path in [*shared, *sorted((OPS_FOLDER / op).iterdir())]
        if path.suffix in (".h", ".cpp", ".cu")
    ]


def _reason(output: str) -> str:
    """The first thing that a compiler or linker complained of, or else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for complaint in ("error:", "undefined reference", "cannot find", "error"):
        for line in lines:
            if complaint in line.lower() and not line.startswith(("FAILED", "collect2", "ninja")):
                return line[:300]
    return (lines or ["ninja said nothing"])[-1][:300]


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
