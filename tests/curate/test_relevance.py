"""Relevance: its weights against plain Python, its choice against random's, its two doors."""

import json
import math
from collections import Counter
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

from domainwright.cli.main import app
from domainwright.core.errors import ConfigError
from domainwright.core.seeds import generator
from domainwright.curate.select import SelectSettings, bags_of, select
from domainwright.curate.selection import SELECTIONS, Seen
from domainwright.curate.selection.relevance import BUCKETS, bag, log_weights, target_bag
from tests.studies import world
from tests.tiny import chat

DOMAINS = {
    "medicine": "patient dose tablet fever heart blood kidney nurse surgery infection".split(),
    "law": "court clause tenant contract appeal judge statute breach damages lease".split(),
    "finance": "bond yield dividend ledger audit equity margin futures broker coupon".split(),
}
COMMON = "the of a and in is to was by with it for that on under after".split()


def texts(domain, count, seed, length=30):
    """Half common words, half words of the domain, common and rare ones."""
    rng, own = generator(seed, domain), DOMAINS[domain]
    rare = np.arange(len(own), 0, -1) / sum(range(len(own) + 1))
    return [
        " ".join(
            str(rng.choice(own, p=rare) if rng.random() < 0.5 else rng.choice(COMMON))
            for _ in range(length)
        )
        for _ in range(count)
    ]


def rows_of(found, name="row"):
    return [chat("Go on:", text, name=f"{name}{n}") for n, text in enumerate(found)]


def seen(rows, target, seed=0):
    return Seen(count=len(rows), seed=seed, bags_N=bags_of(rows), target_B=target_bag(target))


def grams(text):
    found = text.split()
    return found + [f"{a} {b}" for a, b in pairwise(found)]


def by_hand(pool, target, smoothing):
    """log w with dictionaries and loops alone."""

    def counted(some):
        hashes = [int(sha256(g.encode()).hexdigest(), 16) % 10_000 for t in some for g in grams(t)]
        return Counter(hashes)

    p, q = counted(target), counted(pool)
    p_all, q_all = sum(p.values()) + smoothing * 10_000, sum(q.values())
    return [
        sum(
            times
            * (
                math.log((p[bucket] + smoothing) / p_all + 1e-8)
                - math.log(q[bucket] / q_all + 1e-8)
            )
            for bucket, times in counted([text]).items()
        )
        for text in pool
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_the_weights_are_those_of_the_formula(smoothing):
    pool = texts("medicine", 20, 0, 12) + texts("law", 20, 1, 7)
    target = texts("law", 5, 2)
    found = log_weights([bag(text) for text in pool], target_bag(target) + smoothing)
    assert found == pytest.approx(by_hand(pool, target, smoothing), rel=1e-9)


def test_rows_are_drawn_by_their_weights():
    """Two kinds of rows whose weights are known: the first drawn is one of them as often."""
    rows = rows_of(["alpha", "beta"])
    target = ["Go on: alpha"] * 2 + ["Go on: beta"]
    known = seen(rows, target)
    odds = np.exp(log_weights(known.bags_N, known.target_B))
    method = SELECTIONS.get("relevance")()
    draws = [
        method.choose(
            Seen(count=2, seed=seed, bags_N=known.bags_N, target_B=known.target_B), 1
        ).rows[0]
        for seed in range(4000)
    ]
    expected = odds[0] / odds.sum()
    assert expected == pytest.approx(0.8, abs=1e-4)  # twice the word and twice the pair: 4 to 1
    # Four standard deviations of 4,000 draws.
    assert np.mean(np.array(draws) == 0) == pytest.approx(expected, abs=0.026)


def divergence(chosen, target):
    """KL(target ‖ chosen) of single words, one added to every count."""
    p = Counter(word for text in target for word in text.split())
    q = Counter(word for text in chosen for word in text.split())
    known = set(p) | set(q)
    p_all, q_all = (sum(x.values()) + len(known) for x in (p, q))
    return sum(
        (p[w] + 1) / p_all * math.log((p[w] + 1) / p_all / ((q[w] + 1) / q_all)) for w in known
    )


@pytest.mark.parametrize("domain", ["medicine", "law"])
def test_the_choice_reads_like_the_target(domain):
    pool = texts("medicine", 300, 3) + texts("law", 300, 4)
    rows, target = rows_of(pool), texts(domain, 40, 5)

    def chosen(method):
        kept, aside = select(
            rows, SelectSettings(method=method, rows=100), lambda needs: seen(rows, target)
        )
        assert len(kept) + len(aside) == 600
        return [row.answer for row in kept]

    assert divergence(chosen("relevance"), target) < 0.1 * divergence(chosen("random"), target)


def test_short_rows_are_refused_and_an_empty_target_too():
    rows = [chat("?", "!"), chat("One", "two"), chat("One two", "three four")]
    known = seen(rows, ["one two"])
    found = SELECTIONS.get("relevance")(least_words=3).choose(known, 3)
    assert found.rows == [2]
    assert found.refused == {
        0: ("too_short", "0 words, below 3"),
        1: ("too_short", "2 words, below 3"),
    }
    with pytest.raises(ConfigError, match="holds no word"):
        target_bag(["?!"])
    with pytest.raises(ConfigError, match="least_words 0"):
        SelectSettings(method="relevance", rows=1, settings={"least_words": 0})
    with pytest.raises(ConfigError, match="looks at no target"):
        SelectSettings(method="random", rows=1, target="here.txt")
    assert max(bag("many words to be hashed into few")) < BUCKETS


def dw(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_dw_curate_chooses_by_a_target(tmp_path):
    pool = texts("medicine", 20, 6) + texts("law", 20, 7)
    answers = [
        {"id": f"r{n}", "question": f"Case {n}?", "answer": text + "."}
        for n, text in enumerate(pool)
    ]
    file = world.write_lines(tmp_path / "rows.jsonl", answers)
    (tmp_path / "statutes").mkdir()
    (tmp_path / "statutes" / "one.txt").write_text("\n\n".join(texts("law", 10, 8)))
    wanted = ("--select", "relevance", "--rows", 15)
    out, aim = tmp_path / "out", ("--target", tmp_path / "statutes")
    done = dw("curate", file, "-o", out, *wanted, *aim, "--without", "gibberish", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["kept"] == 15
    dropped = world.read_lines(out / "dropped.jsonl")
    assert {x["id"] for x in dropped} >= {f"r{n}" for n in range(20)}
    parents = json.loads((out / "manifest.json").read_text())["parents"]
    assert str(tmp_path / "statutes") in parents
    for given, code, told in (
        (wanted, 2, "add --target"),
        (aim, 2, "--select relevance"),
        ((*wanted, "--target", tmp_path / "nowhere.txt"), 3, "nowhere.txt"),
    ):
        done = dw("curate", file, "-o", tmp_path / "other", *given)
        assert done.exit_code == code and told in done.stderr, done.stderr
