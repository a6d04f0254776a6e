"""The house has floors. A package may import the floors below it, nothing else.

Function-level imports count too: they hide a cycle, they do not remove it.
"""

import ast
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "domainwright"
FLOORS = [  # bottom first; packages on one floor do not know each other
    {"core"},
    {"maths", "models"},
    {"curate", "methods", "combine", "infer"},
    {"train", "evaluate", "prompting"},
    {"studies", "serve"},
    {"cli", "studio"},
]
LEVEL = {package: level for level, floor in enumerate(FLOORS) for package in floor}
ENGINE = ("core", "maths", "models", "methods", "infer", "train")
ALLOWED = {"numpy", "torch", "transformers", "tokenizers", "safetensors", "domainwright"}
EXCEPTIONS = {
    # transformers itself downloads with it and depends on it.
    ("models/resolve.py", "huggingface_hub"),
    # transformers renders chat templates with it; only its exception class is named.
    ("models/template.py", "jinja2"),
    # Imported inside a function, and only where one of its own types is asked for.
    ("methods/_peft_types.py", "peft"),
}
FILES = sorted(HOUSE.rglob("*.py"))


def imports(source: str) -> set[str]:
    """Every module that a file imports anywhere, functions included; `from . import` refused."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "relative imports are not used in this house"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def packages(names: set[str]) -> set[str]:
    parts = [name.split(".") for name in names]
    return {p[1] for p in parts if p[0] == "domainwright" and len(p) > 1 and p[1] in LEVEL}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(HOUSE)))
def test_imports_go_down(file):
    own = file.relative_to(HOUSE).parts[0]
    if own in ("__init__.py", "__main__.py"):
        return  # The house's doors: they stand on no floor.
    for other in packages(imports(file.read_text())) - {own}:
        assert LEVEL[other] < LEVEL[own], f"{own} (floor {LEVEL[own]}) must not import {other}"


def test_every_package_has_a_floor():
    found = {p.name for p in HOUSE.iterdir() if (p / "__init__.py").is_file()}
    assert found <= LEVEL.keys()


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import domainwright.train.loop\n"
        "from domainwright import serve\n"
        "def f():\n    from domainwright.cli.main import app\n"
    )
    assert packages(imports(source)) == {"train", "serve", "cli"}


@pytest.mark.parametrize(
    "file",
    [f for f in FILES if f.relative_to(HOUSE).parts[0] in ENGINE],
    ids=lambda f: str(f.relative_to(HOUSE)),
)
def test_the_engine_runs_where_torch_and_transformers_run(file):
    name = file.relative_to(HOUSE).as_posix()
    for package in {i.split(".")[0] for i in imports(file.read_text())}:
        known = package in ALLOWED or package in sys.stdlib_module_names
        assert known or (name, package) in EXCEPTIONS, f"{name} imports {package}"
