"""Terms: the ratio against the likelihoods it is named after, and the verb end to end."""

import json
import math

import pytest
from typer.testing import CliRunner

from domainwright.cli.main import app
from domainwright.curate.terms import coverage, likelihood_ratio, terms
from domainwright.studies.vocabulary import fertility
from tests.studies import world
from tests.tiny import tiny_tokenizer


def log_likelihood(share, count, size):
    return (count * math.log(share) if count else 0) + (
        (size - count) * math.log(1 - share) if size > count else 0
    )


@pytest.mark.parametrize("here, there", [(30, 2), (5, 0), (1, 80), (40, 300)])
def test_the_ratio_is_that_of_two_binomials_to_one(here, there):
    size_here, size_there = 1_000, 7_000
    apart = log_likelihood(here / size_here, here, size_here) + log_likelihood(
        there / size_there, there, size_there
    )
    share = (here + there) / (size_here + size_there)
    together = log_likelihood(share, here, size_here) + log_likelihood(share, there, size_there)
    found = likelihood_ratio(here, there, size_here, size_there)
    assert found == pytest.approx(2 * (apart - together), rel=1e-9)


def test_terms_are_typical_frequent_and_words():
    documents = ["warfarin thins the blood"] * 20 + ["the 500 the 500 apixaban"] * 2
    general = ["the people of the town walk by the river " * 20]
    found = terms(documents, general, ["What does WARFARIN do? It thins."])
    assert {term.word for term in found} == {"warfarin", "thins", "blood"}
    shown = {term.word: (term.documents, term.rows) for term in found}
    assert shown == {"warfarin": (20, 1), "thins": (20, 1), "blood": (20, 0)}
    assert coverage(found) == pytest.approx(2 / 3) and coverage([]) == 1
    assert [term.ratio for term in found] == sorted((t.ratio for t in found), reverse=True)


def test_fertility_counts_tokens_behind_a_space():
    tokenizer = tiny_tokenizer()
    expected = [len(tokenizer.encode(" " + word)) for word in ("warfarin", "zyx")]
    assert fertility(tokenizer, ["warfarin", "zyx"]) == sum(expected) / 2


def test_the_verb(tmp_path):
    base = world.save_base(tmp_path / "base")
    file = world.write_lines(tmp_path / "rows.jsonl", world.questions())
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "one.md").write_text("# Alder\n\n" + "Alder bark holds tannin and salicin. " * 12)

    def dw(*more):
        given = ["data", "terms", str(file), "--documents", str(pages), *more]
        return CliRunner().invoke(app, given)

    done = dw("--json", "--base", str(base))
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    rows = {term["word"]: term["rows"] for term in told["terms"]}
    assert rows["tannin"] == 0 and rows["alder"] > 0
    assert told["fertility"] > 1 and told["general_fertility"] > 1
    shown = dw("-n", "1")
    assert shown.exit_code == 0 and "12 times in the documents" in shown.stdout
    everyday = tmp_path / "everyday.txt"
    everyday.write_text("Alder bark holds water. " * 900)
    against = json.loads(dw("--json", "--general", str(everyday)).stdout)
    assert {term["word"] for term in against["terms"]} == {"and", "salicin", "tannin"}
    assert "alder:" not in shown.stdout and "more; --json lists all" in shown.stdout
    (pages / "one.md").write_text("It is so.")
    refused = dw()
    assert refused.exit_code == 3 and "three occurrences" in refused.stderr
