"""`dw` in this process, as a user calls it."""

import sys
from typing import NamedTuple

import pytest

from domainwright.cli.main import main
from tests.studies.conftest import base, quick  # noqa: F401


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def dw(monkeypatch, capsys):
    """dw("decide", "study.yaml") -> what it printed and its exit code."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dw", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        return Said(code, *capsys.readouterr())

    return call
