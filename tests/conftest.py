"""One thread, no network: tests must not depend on the machine or on what is in reach."""

import os
import socket
import sys

# Before torch is imported: several test runs share the cores, and forked children need it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest

# The same examples every time, kept nowhere: a run must not depend on the one before.
hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("same")

LOCAL = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A connection that leaves this machine fails the test that opened it."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            raise AssertionError(f"a test opened a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def own_products():
    """A large float32 base has its products made elsewhere, and the next test's with them."""
    yield
    if "domainwright.models.float32" in sys.modules:
        sys.modules["torch"].backends.mkldnn.matmul.fp32_precision = "none"
        sys.modules["domainwright.models.float32"].take_onednn.cache_clear()
