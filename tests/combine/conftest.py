"""The tiny base on disk and the small suite of the studies."""

from tests.studies.conftest import base, quick  # noqa: F401
