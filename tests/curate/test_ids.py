"""Ids that were seen before are known, however many there are, and rows get their own."""

import random

from domainwright.curate._ids import Seen


def test_seen_is_a_set_whatever_is_in_memory():
    draw, seen, wanted = random.Random(0), Seen(fresh=7), set()
    for _ in range(60):
        asked = [f"id{draw.randrange(400)}" for _ in range(9)]
        assert seen.of(asked) == wanted & set(asked)
        for id in asked:
            seen.add(id)
        wanted |= set(asked)
    assert len(wanted) > 200 and 1 < len(seen._runs) < 8
