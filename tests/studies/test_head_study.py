"""A study on a fixed set of labels: methods train a head, prompting scores the choices."""

import json
from dataclasses import replace

import numpy as np
import pytest

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.evaluate.labels import macro_f1
from domainwright.methods._head import HeadedAdapter
from domainwright.studies._scorecards import read_items
from domainwright.studies.api import decide, load_run, plan
from domainwright.studies.card import model_card
from domainwright.studies.export import export
from domainwright.studies.study import read_study
from tests.studies.world import COLOURS, PLANTS, study_file

KINDS = ["colour", "place", "price"]
ASKED = ("What colour is {}?", "Where does {} grow?", "What does {} cost?")


def rows():
    """Sixty questions and what each asks for, in twenty groups; the order of the labels varies."""
    found = []
    for place, plant in enumerate(PLANTS):
        for number, asked in enumerate(ASKED):
            labels = KINDS if (place + number) % 2 else KINDS[::-1]
            found.append(
                {
                    "id": f"{plant}-{number}",
                    "group": plant,
                    "question": asked.format(plant),
                    "choices": labels,
                    "answer": labels.index(KINDS[number]),
                }
            )
    return found


CHANGES = {
    "strategies": ["zero_shot", "lora", "ptuning_v2"],
    "train": {"head": True, "steps": 24, "batch": 8, "learning_rate": 0.02},
    "methods": {"ptuning_v2": {"rows": 4, "dropout": 0.1}},
    "evaluate": {"items": 12},
}


@pytest.fixture
def file(tmp_path, base):
    return study_file(tmp_path / "study", base, rows(), **CHANGES)


@pytest.mark.usefixtures("quick")
def test_a_head_and_the_likelihood_of_choices_meet_on_the_same_items(file, tmp_path):
    assert plan(file).run_of("lora").fits
    decided = decide(file, tmp_path / "run")
    by_name = {r.name: r for r in decided.strategies}
    assert {r.status for r in by_name.values()} == {"done"}
    items = {}
    for name in by_name:
        folder = tmp_path / "run" / "trials" / name / "scorecard"
        parents = json.loads((folder / "manifest.json").read_text())["parents"]
        items[name] = read_items(folder, parents, "items.jsonl")
    assert len({tuple(x.id for x in found) for found in items.values()}) == 1
    assert by_name["lora"].score.mean == pytest.approx(
        np.mean([x.mark.correct for x in items["lora"]])
    )
    assert by_name["lora"].score.mean >= 0.75 and macro_f1(items["lora"]) >= 0.7
    assert {x.tokens_out for x in items["lora"]} == {0}  # no choice is read
    assert items["zero_shot"][0].tokens_out > 0
    # The base guesses: log 3.
    first = by_name["lora"].training.history[0]
    assert first["development_loss"] == pytest.approx(np.log(3))
    assert by_name["lora"].training.settings["head"] is True
    run = load_run(tmp_path / "run", "ptuning_v2")
    assert isinstance(run.adapter, HeadedAdapter) and run.adapter.head.labels == tuple(KINDS)
    assert "library_name: domainwright" in model_card(decided.verdict, "lora")
    chosen = decided.recommendation.strategy
    if chosen != "zero_shot":
        export(tmp_path / "run", tmp_path / "out", "peft")
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert config["task_type"] == "SEQ_CLS"
        with pytest.raises(CapabilityError, match="cannot be merged"):
            export(tmp_path / "run", tmp_path / "merged", "merged")
    again = decide(file, tmp_path / "run", resume=True)
    assert again.recommendation == decided.recommendation


def test_rows_without_common_choices_are_refused(tmp_path, base):
    mixed = rows()
    mixed[3] = {**mixed[3], "choices": [*COLOURS], "answer": 0}
    file = study_file(tmp_path / "mixed", base, mixed, **CHANGES)
    with pytest.raises(ConfigError, match="the files hold 2 sets of choices"):
        decide(file, tmp_path / "a")
    plain = study_file(tmp_path / "plain", base, **CHANGES)
    with pytest.raises(ConfigError, match="the files hold rows without choices"):
        decide(plain, tmp_path / "b")
    with pytest.raises(ConfigError, match="no teacher speaks of labels"):
        read_study(
            study_file(tmp_path / "c", base, rows(), train={"head": True, "distil": {"top": 4}})
        )
    assert replace(read_study(plain).train, head=False).head is False
