"""The size of files and functions, and what importing the package costs."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import domainwright

HOUSE = Path(domainwright.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))
HEAVY = (
    *("torch", "numpy", "transformers", "tokenizers", "safetensors", "polars", "pyarrow"),
    *("lm_eval", "datasets"),
)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(HOUSE)))
def test_files_and_functions_stay_small(file):
    source = file.read_text()
    assert len(source.splitlines()) <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 70, f"{node.name} has {lines} lines"


def test_every_module_imports():
    names = [m.name for m in pkgutil.walk_packages([str(HOUSE)], "domainwright.")]
    assert len(names) > 60
    for name in names:
        importlib.import_module(name)


def test_the_examples_in_docstrings_hold():
    tried = 0
    for name in [m.name for m in pkgutil.walk_packages([str(HOUSE)], "domainwright.")]:
        result = doctest.testmod(importlib.import_module(name))
        assert not result.failed, name
        tried += result.attempted
    assert tried >= 8


def test_every_public_name_is_found():
    for name in domainwright.__all__:
        assert getattr(domainwright, name) is not None
    with pytest.raises(AttributeError, match="tune"):
        domainwright.tune  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import domainwright",
        "import domainwright.cli.main",
        "import sys; sys.argv = ['dw', '--help']\n"
        "from domainwright.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code",
        "import sys; sys.argv = ['dw', 'decide', '--help']\n"
        "from domainwright.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code",
        "from domainwright.methods import METHODS; assert 'lora' in METHODS.names()",
    ],
    ids=["package", "command line", "dw --help", "dw decide --help", "names of the methods"],
)
def test_nothing_heavy_is_loaded(code):
    check = f"import sys; print('loaded', [m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"
