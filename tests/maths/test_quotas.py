"""Whole counts that add up, and an order that is never a row off."""

import random
from collections import Counter
from fractions import Fraction

from domainwright.maths.quotas import epoch, interleaved, quotas


def test_quotas_are_the_largest_remainders():
    assert quotas({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 4) == {"a": 2, "b": 1, "c": 1}
    draw = random.Random(0)
    for _ in range(200):
        raw = [draw.random() for _ in range(draw.randint(1, 6))]
        share = {str(n): x / sum(raw) for n, x in enumerate(raw)}
        total = draw.randint(0, 50)
        found = quotas(share, total)
        assert sum(found.values()) == total
        assert all(abs(found[task] - share[task] * total) < 1 for task in share)
        lost = [share[t] * total - found[t] for t in share if found[t] < share[t] * total]
        won = [share[t] * total % 1 for t in share if found[t] > share[t] * total + 1e-9]
        assert not lost or not won or max(lost) <= min(won) + 1e-9


def test_no_task_is_ever_a_row_off():
    draw = random.Random(1)
    for _ in range(300):
        counts = {str(n): draw.randint(0, 30) for n in range(draw.randint(1, 6))}
        total = sum(counts.values())
        order = interleaved(counts)
        assert Counter(order) == Counter({t: n for t, n in counts.items() if n})
        given = dict.fromkeys(counts, 0)
        for place, task in enumerate(order, 1):
            given[task] += 1
            for t, n in counts.items():
                assert abs(given[t] - Fraction(n * place, total)) < 1


def test_an_epoch_repeats_the_small_and_goes_on_with_the_large():
    tasks = ["large"] * 30 + ["small"] * 3
    share = {"large": 0.4, "small": 0.6}
    first, second = (epoch(tasks, share, 0, n) for n in (0, 1))
    assert first == epoch(tasks, share, 0, 0) != epoch(tasks, share, 1, 0)
    for rows in (first, second):
        assert Counter(tasks[row] for row in rows) == {"large": 13, "small": 20}
        small = Counter(row for row in rows if row >= 30)
        assert max(small.values()) - min(small.values()) <= 1
    large = [row for row in first + second if row < 30]
    assert len(set(large)) == 26, "no large row twice before all were read"
