"""What tests of lm-eval's tasks share: the tasks in `fixtures/lm_eval`, and a cache of their own.

The tasks name their data from the repository's root, as lm-eval reads it from the current folder.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TASKS = ROOT / "tests/fixtures/lm_eval"
NAMES = ["dw_choice", "dw_last_word", "dw_text", "dw_written"]


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def lm_eval_here(data_cache, monkeypatch):
    """lm-eval installed, in the folder its tasks are written for; nothing left in the user's."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra lm-eval)")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed with lm-eval")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", data_cache)
    monkeypatch.chdir(ROOT)
