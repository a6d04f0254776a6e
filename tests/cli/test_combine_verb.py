"""`dw combine`: what it prints and writes, and how it refuses."""

import json

import pytest

from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def study(tmp_path_factory, base):
    return world.study_file(tmp_path_factory.mktemp("study"), base)


def test_two_runs_become_one(dw, study, tmp_path):
    runs = [tmp_path / "one", tmp_path / "two"]
    for n, run in enumerate(runs):
        said = dw("train", study, "--method", "lora", "-o", run, "--set", f"train.steps={6 + n}")
        assert said.code == 0, said.err
    said = dw("combine", *runs, "-o", tmp_path / "soup", "--weights", "3,1")
    assert said.code == 0, said.err
    assert said.out.splitlines() == [
        f"0.750  {runs[0]}",
        f"0.250  {runs[1]}",
        f"average of lora of rank 32: {tmp_path / 'soup'}",
    ]
    said = dw("combine", *runs, "-o", tmp_path / "greedy", "--how", "greedy", "--json")
    found = json.loads(said.out)
    assert said.code == 0 and found["how"] == "greedy" and len(found["members"]) == 2
    said = dw("chat", tmp_path / "soup", "-q", "What colour is fern?")
    assert said.code == 0, said.err
    said = dw("trace", tmp_path / "soup/adapter", "--json")
    assert [x["name"] for x in json.loads(said.out)["parents"]] == ["base", "member 1", "member 2"]
    said = dw("combine", *runs, "-o", tmp_path / "soup")
    assert said.code == 2 and "is not empty" in said.err and "fix: " in said.err
    said = dw("combine", *runs, "-o", tmp_path / "new", "--weights", "a,b")
    assert said.code == 2 and "no list of numbers" in said.err
    said = dw("combine", *runs, "-o", tmp_path / "new", "--how", "mean")
    assert said.code == 2 and "choose one of: average, greedy" in said.err
    said = dw("combine", runs[0], tmp_path, "-o", tmp_path / "new")
    assert said.code == 3 and "holds no trained adapter" in said.err
