"""The model card: valid front matter, measured figures, code that runs as it stands."""

import ast
import re

import pytest
import yaml

from domainwright.core.errors import ConfigError, UnknownName
from domainwright.studies.card import model_card
from tests.studies.verdicts import result, verdict, with_hostile_text


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_front_matter_names_base_and_library():
    given = verdict(study={"domain": "medical"})
    assert front(model_card(given, "lora+rag")) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["domainwright", "lora", "rag", "medical"],
    }


def test_says_what_was_measured_and_where_it_ends():
    card = model_card(verdict(study={"not_for": "Dosing."}), "lora")
    assert "| token F1, higher is better | 0.44 [0.39, 0.49] |" in card
    assert "| forgetting on general text, nats per token | +0.031 [+0.021, +0.041] |" in card
    assert "rank: 16" in card and "dw chat runs/medicines" in card
    assert "rounded to four bits" in card and "Not for: Dosing." in card
    assert "The study recommends this strategy." in card


def test_a_combination_says_that_the_weights_are_one_part():
    card = model_card(verdict(), "lora+rag")
    assert "these weights alone are one part" in card
    assert "more than the study's limit" in card


def test_a_method_outside_peft_is_not_loaded_with_peft():
    given = verdict(result("bottleneck", 0.4, 0.2, lost=0.01, kind="method"))
    card = model_card(given, "bottleneck")
    assert front(card)["library_name"] == "domainwright" and "PeftModel" not in card


def test_loading_code_is_python_whatever_the_names():
    given = with_hostile_text(verdict(), "'\"```\nimport os; os.abort()")
    name = next(r.name for r in given.strategies if r.name.startswith("lora+"))
    card = model_card(given, name)
    code = re.search(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert code is not None
    assert len(ast.parse(code[1]).body) == 5


def test_hostile_text_makes_no_html_and_no_heading():
    given = with_hostile_text(verdict(), "<script>\n# alert</script>")
    name = given.strategies[2].name
    card = model_card(given, name)
    rest = card.split("---\n", 2)[2]
    assert "<script>" not in re.sub(r"`[^`]*`", "", re.sub(r"```.*?```", "", rest, flags=re.DOTALL))
    assert len(re.findall(r"^# ", rest, re.MULTILINE)) == 1


def test_what_has_no_adapter_has_no_card():
    with pytest.raises(ConfigError, match="trained nothing"):
        model_card(verdict(), "rag")
    with pytest.raises(UnknownName, match="use one of: zero_shot"):
        model_card(verdict(), "loro")
