"""The tiny base on disk, made once; a small suite for what is retained."""

import pytest

from tests.studies import world


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def quick(monkeypatch):
    """Six texts and eight choices instead of the whole suite that ships."""
    world.small_suite(monkeypatch)
