"""Figures about this machine, against the system's own."""

import os
import resource
import subprocess
import sys

import pytest

from domainwright.core import machine
from domainwright.core.progress import Step, quiet

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_the_facts_of_a_report():
    facts = machine.describe()
    assert set(facts) == {"processor", "cores", "memory_gb", "system", "python"}
    assert facts["cores"] == machine.cores() <= (os.cpu_count() or 1)
    assert facts["processor"] and facts["memory_gb"] == round(machine.memory_gb(), 1) > 0
    assert facts["python"] == sys.version.split()[0]


@linux
def test_the_memory_is_that_of_the_container(tmp_path, monkeypatch):
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    assert 0 < machine.memory_gb() <= whole
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "Path", lambda _: limit)
    for text, want in (("max\n", whole), ("2000000000\n", 2.0), (str(10**18), whole)):
        limit.write_text(text)
        assert machine.memory_gb() == pytest.approx(want)


PEAK = """
from domainwright.core import machine
before = machine.peak_rss_mib()
block = bytearray(b"x") * (120 * 2**20)
with_block = machine.peak_rss_mib()
del block
kept = machine.peak_rss_mib()
machine.reset_peak()
print(before, with_block, kept, machine.peak_rss_mib())
"""


@linux
def test_the_peak_of_memory_is_measured_and_starts_anew():
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=60, check=True
    )
    before, with_block, kept, after = map(int, done.stdout.split())
    # The kernel counts pages in batches per thread: the same peak, read twice, may differ by a MiB.
    assert abs(with_block - kept) <= 1 and 110 <= with_block - before <= 140
    if os.access("/proc/self/clear_refs", os.W_OK):
        assert after < with_block - 100


KEPT = """
import resource
from domainwright.core import machine

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"x") * (120 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

outside = [pages() for _ in range(3)][-1]
with machine.blocks_kept():
    inside, held = [pages() for _ in range(3)][-1], machine.resident_mib()
print(outside, inside, pages(), held, machine.resident_mib())
"""


@linux
def test_a_block_that_is_kept_is_not_asked_for_again():
    if not machine._of_the_library("mallopt"):
        pytest.skip("a C library without mallopt")
    done = subprocess.run(
        [sys.executable, "-c", KEPT], capture_output=True, text=True, timeout=60, check=True
    )
    outside, inside, after, held, left = map(int, done.stdout.split())
    # Where every block comes in pages of 2 MB anyway there is nothing to see.
    if outside > 10_000:
        assert inside < 1000 and after > 10_000
    assert left < held - 100


def test_a_library_that_keeps_nothing_is_left_alone(monkeypatch):
    for absent in (None, lambda option, value: 0):
        monkeypatch.setattr(machine, "_of_the_library", lambda name, found=absent: found)
        with machine.blocks_kept():
            pass


def test_without_proc_the_peak_is_that_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "STATUS", tmp_path / "none")
    monkeypatch.setattr(machine, "CLEAR", tmp_path / "no" / "folder")
    machine.reset_peak()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10
    assert machine.peak_rss_mib() == pytest.approx(peak // unit, abs=1)


def test_progress_can_be_ignored():
    assert quiet(Step("stage", 1, 2)) is None


@pytest.mark.parametrize("name", ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"])
def test_the_environment_decides_how_many_products_are_kept(monkeypatch, name):
    monkeypatch.setenv(name, "7")
    machine.keep_few_products()
    assert os.environ[name] == "7"
    monkeypatch.delenv(name)
    machine.keep_few_products()
    assert os.environ[name] == "128"


def test_products_of_many_lengths_are_not_all_kept():
    """Without the bound, 800 lengths keep some 240 MiB where oneDNN compiles bfloat16 products."""
    code = """
import torch
from domainwright.core import machine
machine.keep_few_products()
weight = torch.zeros(256, 256, dtype=torch.bfloat16)
for length in range(1, 900):
    torch.zeros(8 * length, 256, dtype=torch.bfloat16) @ weight
    if length == 100:
        begun = machine.resident_mib()
machine.give_back()
print(machine.resident_mib() - begun)
"""
    keepers = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    bare = {k: v for k, v in os.environ.items() if k not in keepers}
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env=bare, capture_output=True, text=True, check=True)
    assert int(said.stdout) < 100
