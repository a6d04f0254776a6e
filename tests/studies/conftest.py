"""The tiny base on disk, made once; a small suite for what is retained."""

import pytest

from domainwright.evaluate.retained import Suite, shipped_suite
from tests.studies import world


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def quick(monkeypatch):
    """Six texts and eight choices instead of the whole suite that ships."""
    whole = shipped_suite()
    small = Suite(whole.texts[:6], whole.choices[:8])
    for place in ("_exam", "api"):
        monkeypatch.setattr(f"domainwright.studies.{place}.shipped_suite", lambda: small)
