"""The arithmetic of a round: halves, clusters, words, what is proposed, what is accepted."""

from dataclasses import replace

import numpy as np
import pytest

from domainwright.core.errors import DataError
from domainwright.core.records import Chat, Choice, Message
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.retained import Change
from domainwright.maths.bootstrap import Interval
from domainwright.studies.refine.acceptance import Rules, decide
from domainwright.studies.refine.clusters import clusters, silhouette
from domainwright.studies.refine.errors import find_errors, wrong
from domainwright.studies.refine.halves import halves
from domainwright.studies.refine.proposal import choose, reading
from domainwright.studies.refine.telling import telling

RULES = Rules(score="accuracy", round=1, max_forgetting=0.05)
SAME = Change(*[Interval(0.0, 0.0, 0.0)] * 3)


def chat(number, group=None, question="q"):
    return Chat(
        id=str(number),
        group=group or str(number),
        file="f",
        line=number,
        messages=(Message("user", question), Message("assistant", "a")),
    )


def item(number, correct, question="q", reply="r"):
    return Item(
        id=str(number),
        group=str(number),
        question=question,
        reference="a",
        reply=reply,
        mark=Mark(correct, True),
    )


def items(marks):
    return [item(n, float(mark)) for n, mark in enumerate(marks)]


def blobs(sizes, noise, seed=0):
    """Unit vectors around orthogonal directions, and whose they are."""
    rng = np.random.default_rng(seed)
    z = np.concatenate([np.eye(16)[[k] * n] for k, n in enumerate(sizes)])
    z = z + noise * rng.normal(size=z.shape)
    own = np.repeat(np.arange(len(sizes)), sizes)
    return z / np.linalg.norm(z, axis=1, keepdims=True), own


class TestHalves:
    def test_groups_and_tied_groups_stay_whole(self):
        rows = [chat(n, f"g{n // 3}") for n in range(60)]
        found = halves(rows, [["g0", "g1", "g2"], ["g5", "g9"]], seed=1)
        sides = [{r.group for r in side} for side in (found.looked_at, found.held_out)]
        assert not sides[0] & sides[1] and len(found.looked_at) + len(found.held_out) == 60
        assert 24 <= len(found.looked_at) <= 36
        for tied in ({"g0", "g1", "g2"}, {"g5", "g9"}):
            assert any(tied <= side for side in sides)

    def test_the_draw_is_of_seed_and_names_alone(self):
        rows = [chat(n) for n in range(40)]
        ids = {r.id for r in halves(rows, [], 1).looked_at}
        assert ids == {r.id for r in halves(rows[::-1], [], 1).looked_at}
        assert ids != {r.id for r in halves(rows, [], 2).looked_at}

    def test_one_group_cannot_be_halved(self):
        with pytest.raises(DataError, match="1 group"):
            halves([chat(n, "g") for n in range(9)], [], 0)

    def test_two_groups_are_one_each(self):
        found = halves([chat(1), *(chat(n, "large") for n in range(2, 9))], [], 0)
        assert found.looked_at and found.held_out


class TestClusters:
    @pytest.mark.parametrize("sizes", [(5, 4), (9, 6, 4), (12, 9, 7, 5)])
    def test_blobs_are_found_largest_first(self, sizes):
        z, own = blobs(sizes, 0.05)
        mixed = np.random.default_rng(3).permutation(len(z))
        assert (clusters(z[mixed]) == own[mixed]).all()

    def test_no_structure_is_one_group(self):
        z = np.random.default_rng(0).normal(size=(40, 64))
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        assert not clusters(z).any()

    @pytest.mark.parametrize("count", [1, 5])
    def test_few_errors_are_one_group(self, count):
        z, _ = blobs((3, 3), 0.01)
        assert clusters(z[:count]).tolist() == [0] * count

    def test_equal_vectors_are_one_group(self):
        assert not clusters(np.tile([1.0, 0.0], (9, 1))).any()

    def test_silhouette_is_that_of_its_definition(self):
        z, own = blobs((4, 3, 1), 0.4, seed=2)
        values = []
        for n, mine in enumerate(own):
            far = [1 - z[n] @ other for other in z]
            inside = [far[m] for m in range(len(z)) if own[m] == mine and m != n]
            if not inside:
                values.append(0.0)
                continue
            a = np.mean(inside)
            b = min(
                np.mean([far[m] for m in range(len(z)) if own[m] == k]) for k in {*own} - {mine}
            )
            values.append((b - a) / max(a, b))
        assert silhouette(z, own) == pytest.approx(np.mean(values), abs=1e-12)


class TestWords:
    def test_common_words_of_both_name_nothing(self):
        found = telling(["the fee of a lease", "the fee of a loan"], [["the end of a day"] * 3])
        assert found == ["fee"]

    def test_a_word_of_one_text_names_nothing(self):
        assert "fern" not in telling(["fern colour", "kale colour"], [["who sells"]])


class TestWrong:
    def test_half_of_a_score_that_counts_words(self):
        assert wrong(items([0.49, 0.5, 1]), "token_f1") == ([0], "token f1 below 0.5")

    def test_exact_scores_must_be_right(self):
        assert wrong(items([1, 0, 1, 0]), "accuracy")[0] == [1, 3]
        assert wrong(items([1, 0.9]), "exact_match")[0] == [1]

    def test_the_worst_quarter_of_texts(self):
        assert wrong(items([-1, -3, -2, -1, -9, -1, -1, -1]), "negative_bits_per_byte")[0] == [1, 4]


def found_errors(sizes, right=4):
    z, own = blobs((*sizes, right), 0.02)
    rows = [chat(n, question=f"about topic{own[n]} case{n}") for n in range(len(z))]
    marks = [item(n, float(own[n] == len(sizes)), rows[n].question) for n in range(len(z))]
    return find_errors(rows, marks, z, "token_f1", 20), z


def test_errors_have_names_examples_and_advice():
    found, _ = found_errors((6, 4))
    assert (found.errors.asked, found.errors.wrong) == (14, 10)
    first, second = found.errors.clusters
    assert (first.words, first.errors, second.errors) == (["topic0"], 6, 4)
    assert first.advice == (
        "6 of 10 errors are about topic0; write or collect about 12 rows like the examples."
    )
    assert len(first.examples) == 3 and set(first.rows) == {str(n) for n in range(6)}
    assert {e.id for e in first.examples} <= set(first.rows)


def test_confusions_of_labels():
    rows = [
        Choice(
            id=str(n), group=str(n), file="f", line=n, question="x", choices=("a", "b"), answer=0
        )
        for n in range(4)
    ]
    given = [replace(item(n, float(r == "a")), reply=r) for n, r in enumerate("abba")]
    found = find_errors(rows, given, np.eye(4), "accuracy", 4).errors.confusions
    assert [(x.wanted, x.given, x.times) for x in found] == [("a", "b", 2)]
    other = [*rows[:3], replace(rows[3], choices=("a", "c"))]
    assert not find_errors(other, given, np.eye(4), "accuracy", 4).errors.confusions


class TestProposal:
    def test_the_nearest_rows_of_each_cluster_by_its_share(self):
        found, z = found_errors((6, 4))
        offered_ND, own = blobs((20, 20, 20), 0.3, seed=5)
        rows = [chat(100 + n) for n in range(60)]
        chosen, aside = choose(rows, offered_ND, found, z[found.numbers], 10)
        assert [own[int(one.row.id) - 100] for one in chosen] == [0] * 6 + [1] * 4
        assert [one.cluster for one in chosen] == [0] * 6 + [1] * 4
        assert len(chosen) + len(aside) == 60 and {x.reason for x in aside} == {"not_selected"}
        assert "nearest error" in aside[0].detail

    def test_fewer_rows_than_wanted_are_all_taken(self):
        found, z = found_errors((6, 4))
        chosen, aside = choose([chat(1), chat(2)], z[[0, 7]], found, z[found.numbers], 10)
        assert len(chosen) == 2 and not aside

    @pytest.mark.parametrize(("count", "times", "old"), [(8, 1, 8), (3, 2, 10), (1, 4, 12)])
    def test_what_one_retraining_reads(self, count, times, old):
        new, before = [chat(n) for n in range(count)], [chat(100 + n) for n in range(30)]
        read, often = reading(new, before, 16, 0.5, seed=0)
        assert len(read) == 16 and often == times
        assert sum(row in before for row in read) == old
        assert all(read.count(row) == times for row in new)

    def test_old_rows_are_read_again_where_they_are_few(self):
        read, _ = reading([chat(1)], [chat(2), chat(3)], 10, 0.1, seed=0)
        assert len(read) == 10


def change(nats=(0.0, 0.0, 0.0), accuracy=(0.0, 0.0, 0.0)):
    return Change(Interval(*nats), Interval(0.0, 0.0, 0.0), Interval(*accuracy))


class TestDecision:
    BEFORE, AFTER = items([0] * 14 + [1] * 6), items([1] * 20)

    def test_a_gain_without_a_loss_is_accepted(self):
        found = decide(self.BEFORE, self.AFTER, {}, SAME, SAME, RULES)
        assert found.accepted and found.sentence.startswith(
            "Accepted: the challenger gains +70.0 pp ["
        )
        assert "on 20 held-out development rows in 20 groups" in found.sentence
        assert found.difference.mean == pytest.approx(0.7) and found.level == 0.025

    def test_no_difference_is_refused(self):
        found = decide(self.BEFORE, self.BEFORE, {}, SAME, SAME, RULES)
        assert not found.accepted and "no gain is shown" in found.sentence

    def test_worse_is_refused(self):
        found = decide(self.AFTER, self.BEFORE, {}, SAME, SAME, RULES)
        assert not found.accepted and "the challenger is worse" in found.sentence

    def test_every_round_asks_for_more(self):
        before, after = items([0] * 7), items([1] * 7)  # p = 2 / 2^7 = 0.0156
        told = [
            decide(before, after, {}, SAME, SAME, replace(RULES, round=n)).accepted for n in (1, 2)
        ]
        assert told == [True, False]

    def test_a_part_that_gets_worse_is_refused(self):
        before = items([0] * 20 + [1] * 8)
        after = items([1] * 20 + [0] * 8)
        part_of = {str(n): "rare" if n >= 20 else "common" for n in range(28)}
        found = decide(before, after, part_of, SAME, SAME, replace(RULES, score="accuracy"))
        assert not found.accepted and "worse on rare" in " ".join(found.reasons)
        assert [part.name for part in found.parts] == ["common", "rare"]

    def test_forgetting_beyond_the_limit_is_refused(self):
        found = decide(self.BEFORE, self.AFTER, {}, change((0.06, 0.05, 0.07)), SAME, RULES)
        assert not found.accepted
        assert "against the base the challenger forgets 0.060 nats per token" in found.sentence

    @pytest.mark.parametrize(("low", "accepted"), [(0.0049, True), (0.0051, False)])
    def test_forgetting_more_than_the_champion(self, low, accepted):
        now = change((0.02, low, 0.04))
        assert decide(self.BEFORE, self.AFTER, {}, SAME, now, RULES).accepted == accepted

    @pytest.mark.parametrize(("high", "accepted"), [(0.0, True), (-0.01, False)])
    def test_fewer_general_questions_than_the_champion(self, high, accepted):
        now = change(accuracy=(-0.1, -0.2, high))
        assert decide(self.BEFORE, self.AFTER, {}, SAME, now, RULES).accepted == accepted
