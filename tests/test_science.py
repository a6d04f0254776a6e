"""The science bench: its world, the statistics behind its verdicts, and one row in miniature."""

import doctest
import json
import math

import pytest
from scipy import stats

from bench.science import arms, drawings, labelled, page, t0, verdicts
from bench.science.arms import Effort, Ran, all_of, lab, sweep
from bench.science.labelled import sentences
from bench.science.rows import ROWS, s1, s6, s11
from bench.science.rows.__main__ import measured
from bench.science.rows.s12 import flipped_facts
from bench.science.t0 import Recipe, sentence, texts, vocabulary, world_of
from bench.science.verdicts import (
    Criterion,
    at_least,
    at_most,
    in_most,
    paired,
    reached,
    spearman,
    verdict,
    within,
)
from domainwright.core.errors import RunFailed
from domainwright.methods import METHODS
from domainwright.methods._head import HeadedAdapter

RECIPE = Recipe(
    nouns=6,
    values=5,
    domain_nouns=4,
    domain_values=3,
    contradicted=2,
    width=16,
    inner=24,
    layers=2,
    heads=2,
    steps=12,
    batch=8,
)
EFFORT = Effort(seeds=2, steps=4, batch=4, documents=16, held_out=6, rates=2)


def test_a_recipe_gives_one_world_and_other_seeds_another():
    first, again = world_of(RECIPE), world_of(RECIPE)
    assert first == again
    other = world_of(Recipe(seed=1))
    assert other.languages["G"].facts != world_of(Recipe()).languages["G"].facts
    assert Recipe().hash != Recipe(seed=1).hash


def test_texts_depend_on_language_split_and_seed_alone():
    world = world_of(RECIPE)
    general, domain = world.languages["G"], world.languages["D1"]
    mine = [row.ids for row in texts(world, general, "train", 20).rows]
    assert mine[:5] == [row.ids for row in texts(world, general, "train", 5).rows]
    for other in (
        texts(world, general, "test", 20),
        texts(world, general, "train", 20, seed=1),
        texts(world, domain, "train", 20),
    ):
        assert mine != [row.ids for row in other.rows]


def test_a_domain_says_other_things_than_g_in_its_own_order():
    world = world_of(Recipe())
    general, domain = world.languages["G"], world.languages["D1"]
    shared = set(general.facts) & set(domain.facts)
    assert len(shared) == 12 * 3
    assert sum(general.facts[k] != domain.facts[k] for k in shared) > 0.8 * len(shared)
    verbs = {verb for group in domain.verbs for verb in group}
    draw = t0._Draw(t0.generator(0, "sentences"))
    found = [sentence(domain, draw) for _ in range(200)]
    last = [words for words in found if words[0] in t0.OPENINGS["agreement"]]
    assert last and all(words[-2] in verbs for words in last)
    assert not any(words[0] in t0.OPENINGS["mention"] for words in found)


def test_the_floor_is_the_entropy_of_what_is_drawn():
    world = world_of(RECIPE)
    general = world.languages["G"]
    facts = len(general.nouns) * len(general.relations)
    verbs, adjectives = len(general.verbs[0]), len(general.adjectives[0])
    kinds = {
        "fact": math.log(facts),
        "inverse": math.log(facts),
        "agreement": math.log(len(general.nouns) ** 2 * verbs * adjectives),
        "turn": math.log(len(general.nouns) * verbs * facts),
        "mention": math.log(len(general.mentioned)),
    }
    expected = sum(math.log(5 * len(t0.OPENINGS[k])) + nats for k, nats in kinds.items()) / 5
    drawn = texts(world, general, "train", 2_000)
    targets = sum(row.targets for row in drawn.rows)
    assert drawn.floor * targets / (2_000 * RECIPE.sentences) == pytest.approx(expected, rel=0.01)


def test_every_word_is_one_token_of_the_tokenizer():
    world = world_of(RECIPE)
    tokenizer, ids = t0.tokenizer_of(world), vocabulary(world)
    assert len(set(ids.values())) == len(ids) == len(world.words) + 3
    assert tokenizer("The " + world.words[-1]).input_ids == [0, ids["the"], len(ids) - 1]


def test_shuffled_facts_are_the_same_values_elsewhere():
    language = world_of(Recipe()).languages["D1"]
    flipped = flipped_facts(language)
    assert sorted(flipped.facts.values()) == sorted(language.facts.values())
    changed = sum(flipped.facts[k] != language.facts[k] for k in language.facts)
    assert changed > 0.8 * len(language.facts)


def test_the_interval_over_seeds_is_students():
    for values in ([1.0, 2.0, 4.0], [0.1, -0.2, 0.3, 0.05, 0.12]):
        found = paired(values)
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.low, found.high) == (
            pytest.approx(low, rel=1e-3),
            pytest.approx(high, rel=1e-3),
        )
    for freedom, quantile in enumerate(verdicts.QUANTILES, start=1):
        assert quantile == pytest.approx(stats.t.ppf(0.975, freedom), abs=6e-4)
    assert paired([0.7]).low == -math.inf


@pytest.mark.parametrize(
    ("values", "most", "least"),
    [
        ([0.9, 1.0, 1.1], True, False),
        ([2.9, 3.0, 3.1], False, True),
        ([1.0, 2.0, 3.1], None, None),
        ([2.0, 2.0, 2.0], True, True),
    ],
)
def test_a_limit_of_two_is_met_missed_or_open(values, most, least):
    assert at_most("", values, 2.0).met is most
    assert at_least("", values, 2.0).met is least


def test_most_seeds_are_four_of_five():
    wins = {5: True, 4: True, 3: None, 2: False, 0: False}
    for count, met in wins.items():
        assert in_most("", [i < count for i in range(5)]).met is met
    assert within("", 1.0, 1.0, 2.0).met and not within("", 2.1, 1.0, 2.0).met


@pytest.mark.parametrize(
    ("met", "wanted"),
    [
        ((True, True), "reproduced"),
        ((True, None), "inconclusive"),
        ((None, False), "not reproduced"),
        ((True, False), "not reproduced"),
    ],
)
def test_the_verdict_is_that_of_the_worst_criterion(met, wanted):
    assert verdict([Criterion("", m, "") for m in met]) == wanted


def test_rank_correlation_agrees_with_scipy():
    one, other = [1, 4, 16, 64, 64], [0.3, 0.1, 0.1, -0.4, 0.2]
    wanted = stats.spearmanr(one, other).statistic
    assert spearman(one, other) == pytest.approx(wanted, abs=6e-4)
    assert spearman([1, 2, 3], [5, 5, 5]) == 0.0


def test_a_level_that_is_never_reached_has_no_place():
    assert reached([(3.0, 0.0), (2.0, 1.0)], 1.0) is None
    assert reached([(3.0, 0.0), (2.0, 1.0), (2.5, 5.0)], 2.25) == 0.75


def test_a_sweep_goes_on_while_the_best_rate_is_outermost():
    asked = []

    def loss(rate: float) -> float:
        asked.append(rate)
        return abs(math.log(rate / 27.0))

    found = sweep(loss, 1.0, 3)
    assert found.best == pytest.approx(27.0)
    assert sorted(asked) == pytest.approx([1 / 3, 1, 3, 9, 27, 81])


def test_a_seed_that_fails_is_not_left_out():
    with pytest.raises(RunFailed, match="1 of 2"):
        all_of(s1.ARMS[0], [1.0, None])


@pytest.mark.parametrize("module", [verdicts, drawings, s1, s11], ids=lambda m: m.__name__)
def test_the_examples_hold(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_a_stream_of_loras_beside_each_other(tmp_path):
    """What was learned stays: another order of stages would be another matrix."""
    here = lab(RECIPE, EFFORT, tmp_path)
    plain = s11.stream(here, s11.BESIDE, 1e-2, 0, 0.0)
    apart = s11.stream(here, s11.O_LORA, 1e-2, 0, 5.0)
    for found in (plain, apart):
        assert len(found.matrix) == 5 and {len(row) for row in found.matrix} == {4}
        assert found.matrix[0] == plain.matrix[0] and found.matrix[1] == plain.matrix[1]
    assert plain.matrix[2] != apart.matrix[2] and plain.general != apart.general


def test_labelled_sentences_end_with_nouns_of_their_split(tmp_path):
    here = lab(RECIPE, EFFORT, tmp_path)
    general, words = here.world.languages["G"], {v: k for k, v in vocabulary(here.world).items()}
    seen = {}
    for split in ("train", "validation", "test"):
        rows = sentences(here, split, 40)
        seen[split] = {words[row.ids[-1]] for row in rows}
        assert len(rows) == 40 and all(row.supervised[-1] and row.targets == 1 for row in rows)
        assert all(row.labels == (general.class_of[words[row.ids[-1]]],) for row in rows)
        assert [r.ids for r in rows] != [r.ids for r in sentences(here, split, 40, seed=1)]
    assert set.union(*seen.values()) == set(general.nouns)
    assert sum(map(len, seen.values())) == len(general.nouns)


@pytest.mark.parametrize("name", ["s4", "s6", "s7"])
def test_rows_in_miniature(name, tmp_path, monkeypatch):
    monkeypatch.setattr(s6, "SIZES", (8, 16))
    # A run of a few steps may learn nothing: that is a result elsewhere, and no end of this test.
    monkeypatch.setattr(arms, "run", lambda *a, plain=arms.run, **k: plain(*a, **k) or _stuck(*a))
    monkeypatch.setattr(labelled, "run", arms.run)
    record = measured(lab(RECIPE, EFFORT, tmp_path), name.upper(), ROWS.get(name))
    assert record["verdict"] in ("reproduced", "not reproduced", "inconclusive")
    assert all(
        len(x) == 2 for own in record["figures"].values() for x in own.values() if len(x) > 1
    )
    if name == "s6":
        assert record["criteria"][0]["met"], "zeros take attention"
        assert set(record["curves"]) == set(s6.STARTS)


def _stuck(here, arm, rate, seed, plan):
    kind = METHODS.get(arm.method)
    adapter = kind.build(here.base, kind.Settings(**arm.method_settings), seed)
    if arm.labels:
        adapter = HeadedAdapter(adapter, "classification", arm.labels)
    return Ran(adapter, [{"domain": 9.0}])


def test_a_row_from_the_world_to_the_page(tmp_path, monkeypatch):
    here = lab(RECIPE, EFFORT, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert here.base.sha256 == lab(RECIPE, EFFORT, tmp_path).base.sha256
    assert [folder] == list(tmp_path.iterdir())
    record = measured(here, "S2", ROWS.get("s2"))
    assert record["verdict"] in ("reproduced", "not reproduced", "inconclusive")
    assert record["recipe"] == RECIPE.hash
    assert all(len(own["loss on D1"]) == 2 for own in record["figures"].values())
    assert all(len(losses) >= 2 for losses in record["rates"].values())

    file = tmp_path / "results.jsonl"
    lines = [json.dumps(record | {"verdict": "an earlier one"}), json.dumps(record)]
    file.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(page, "RESULTS", file)
    monkeypatch.setattr(page, "DOCS", tmp_path)
    assert page.main() == 0
    text = (tmp_path / "science.md").read_text(encoding="utf-8")
    assert f"**Verdict: {record['verdict']}.**" in text
    assert "an earlier one" not in text
    assert "| S9 |" in text and "not measured yet" in text
    assert (tmp_path / "images" / "science_s2.svg").read_text().startswith("<svg")
