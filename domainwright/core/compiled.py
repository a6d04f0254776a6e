"""C++ of ours, compiled once on the user's machine into the user's cache.

Plain C symbols called through ctypes: no header of Python or of a library is needed, and there
is one installable package for every Python. Where nothing can be compiled, the caller has the
same in Python; `DOMAINWRIGHT_NATIVE=0` switches all of it off.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

SECONDS = 120
"""A compiler that takes longer is given up; it takes about five."""


class NotCompiled(Exception):
    """Why there is no library: one line."""


def cache_folder() -> Path:
    """$DOMAINWRIGHT_CACHE, or the user's cache folder."""
    named = os.environ.get("DOMAINWRIGHT_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "domainwright"


def compiled(
    name: str, sources: Sequence[Path], flags: Sequence[str], headers: Sequence[Path] = ()
) -> Path:
    """Path of the shared library of exactly these sources, compiled if it is not there.

    Raises:
        NotCompiled: switched off, no compiler, or it fails.
    """
    if os.environ.get("DOMAINWRIGHT_NATIVE") == "0":
        raise NotCompiled("switched off by DOMAINWRIGHT_NATIVE=0")
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise NotCompiled("no C++ compiler (g++) found")
    try:
        return _build(compiler, name, sources, flags, headers)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-1:]
        raise NotCompiled(f"{compiler} failed: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCompiled(f"cannot be built: {error}") from error


def _build(
    compiler: str, name: str, sources: Sequence[Path], flags: Sequence[str], headers: Sequence[Path]
) -> Path:
    texts = [file.read_bytes() for file in (*headers, *sources)]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    key = sha256(b"\0".join([*texts, version, " ".join(flags).encode()])).hexdigest()[:16]
    target = cache_folder() / f"{name}-{key}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = []
        for source in sources:
            objects.append(str(Path(folder, source.name).with_suffix(".o")))
            _run([compiler, *flags, "-c", str(source), "-o", objects[-1]])
        # Linked without -fopenmp: a second OpenMP runtime beside torch's would double the threads.
        made = Path(folder, f"{name}.so")
        _run([compiler, "-shared", "-o", str(made), *objects])
        os.replace(made, target)  # atomic: two processes may build at once
    return target


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
