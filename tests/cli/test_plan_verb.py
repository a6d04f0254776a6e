"""`dw plan`: the table, JSON and the refusal."""

import json

import pytest

from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def study(tmp_path_factory, base):
    return world.study_file(tmp_path_factory.mktemp("study"), base)


def test_a_table_on_the_screen(dw, study):
    said = dw("plan", study)
    assert said.code == 0
    heading, zero, lora, *_ = said.out.splitlines()
    assert heading.split()[0] == "strategy" and zero.split()[0] == "zero_shot"
    assert lora.split()[0] == "lora" and lora.split()[-1] == "yes"
    assert "probe" in said.err and "Traceback" not in said.err


def test_json_alone_on_stdout(dw, study):
    said = dw("plan", study, "--json", "--set", "train.steps=9")
    found = json.loads(said.out)
    assert said.code == 0 and found["steps"] == 9
    assert [s["name"] for s in found["strategies"]] == ["zero_shot", "lora"]
    assert found["strategies"][1]["run"]["micro_tokens"] > 0


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_what_does_not_fit_ends_in_exit_code_4(dw, study, flags):
    said = dw("plan", study, "--set", "budget.memory_gb=0.01", *flags)
    assert said.code == 4
    assert "error: lora: Training on " in said.err and "fix: raise budget.memory_gb" in said.err
    # The prediction is shown before it is refused.
    assert "lora" in said.out
