"""The library prints nothing: no progress, no warning, no bar of transformers."""

import pytest

import domainwright as dw
from domainwright.studies.api import Decided, Run
from domainwright.studies.export import export
from domainwright.studies.look import look
from domainwright.studies.records import Training, Verdict, read_verdict
from domainwright.studies.score import score_file
from domainwright.studies.trace import trace
from tests.studies import world


@pytest.mark.usefixtures("quick")
def test_every_function_returns_records_and_prints_nothing(tmp_path, base, capfd):
    study = world.study_file(tmp_path, base, strategies=["lora", "lora+few_shot"])
    decided = dw.decide(study, tmp_path / "run")
    assert isinstance(decided, Decided) and isinstance(decided.verdict, Verdict)
    assert decided.verdict == read_verdict(tmp_path / "run" / "verdict.json")
    assert isinstance(decided.best, Run)
    assert isinstance(decided.best.chat("What colour is fern?", new_tokens=2), str)
    assert isinstance(dw.train_method(study, "lora", tmp_path / "one"), Training)
    assert dw.load_run(tmp_path / "one").adapter is not None
    export(tmp_path / "run", tmp_path / "merged", "merged")
    export(tmp_path / "run", tmp_path / "peft", "peft")
    file = tmp_path / "train.jsonl"
    assert look(file, str(base), 2).rows and trace(tmp_path / "run")["parents"]
    assert score_file(str(tmp_path / "merged"), file, items=2, new_tokens=2)["items"] == 2
    assert capfd.readouterr() == ("", "")
