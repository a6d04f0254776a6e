"""The same dataset from Ray's workers, also when some are lost; skipped where Ray is not installed.

In an environment with Ray: `python -m pytest tests/curate/test_on_ray.py`.
"""

import json
import os
import signal
import sys

import pytest

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.curate import pipeline
from domainwright.curate.pipeline import Wish, curate


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "CHUNK_ROWS", 20)
    rows = [{"id": f"r{n}", "text": f"The rent of house {n} is due on day {n}."} for n in range(99)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]), "utf-8")
    return path


def test_a_place_that_is_none(file):
    with pytest.raises(ConfigError, match="here, ray"):
        Wish(files=(file,), on="spark")


def test_without_ray_it_says_what_to_install(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CapabilityError, match=r"domainwright\[ray\]"):
        curate(Wish(files=(file,), on="ray"), tmp_path / "out")


class Dying:
    """A filter that ends its worker at one row, the first time."""

    def __init__(self, mark):
        self.mark = mark

    def ready(self, sample):
        return self.look

    def look(self, row):
        if row.id == "r50" and not os.path.exists(self.mark):
            open(self.mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)


class Failing(Dying):
    def look(self, row):
        if row.id == "r50":
            raise DataError("The row r50 is bad.", "take another.")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestRay:
    """Ray warns of what it will change in itself, and leaves sockets open behind it."""

    @pytest.fixture(autouse=True)
    def needed(self, monkeypatch):
        pytest.importorskip("ray")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), *sys.path]))

    def test_the_same_dataset(self, file, tmp_path):
        curate(Wish(files=(file,)), tmp_path / "here")
        curate(Wish(files=(file,), on="ray", workers=2), tmp_path / "there")
        wanted = read_manifest(tmp_path / "here")["files"]
        assert read_manifest(tmp_path / "there")["files"] == wanted

    def test_a_lost_worker_is_replaced(self, file, tmp_path, monkeypatch):
        mark = str(tmp_path / "killed")
        monkeypatch.setattr(pipeline, "chosen", lambda *_: [("dying", Dying(mark))])
        monkeypatch.setattr(pipeline, "described", lambda filters: {})
        found = curate(Wish(files=(file,), on="ray", workers=2), tmp_path / "there")
        assert os.path.exists(mark) and found.kept == 99

    def test_an_error_is_told_as_it_was_raised(self, file, tmp_path, monkeypatch):
        monkeypatch.setattr(pipeline, "chosen", lambda *_: [("failing", Failing(""))])
        monkeypatch.setattr(pipeline, "described", lambda filters: {})
        with pytest.raises(DataError, match="r50 is bad"):
            curate(Wish(files=(file,), on="ray", workers=2), tmp_path / "there")
