"""Prefix trees: every sequence can be read back, and what is shared is there once."""

import random

import pytest
import torch

from domainwright.models.tree import grow, shared


def sequences(seed, count=40):
    """Nested, branching and equal sequences over a small alphabet."""
    rng = random.Random(seed)
    found = [tuple(rng.choices(range(3), k=rng.randrange(1, 9))) for _ in range(count)]
    return [*found, *(s[: rng.randrange(1, len(s) + 1)] for s in found[:9]), found[0]]


@pytest.mark.parametrize("seed", range(20))
def test_every_part_of_every_sequence_is_found(seed):
    wanted = sequences(seed)
    tree = grow(wanted)
    flat = tree.flat(torch.device("cpu"))
    for number, tokens in enumerate(wanted):
        for start in range(len(tokens)):
            for stop in range(start, len(tokens) + 1):
                rows = tree.rows(number, start, stop)
                assert flat.ids_T[rows].tolist() == list(tokens[start:stop])
                assert flat.positions_T[rows].tolist() == list(range(start, stop))


@pytest.mark.parametrize("seed", range(20))
def test_each_distinct_prefix_is_one_token_of_the_batch(seed):
    wanted = sequences(seed)
    tree = grow(wanted)
    prefixes = {tokens[:n] for tokens in wanted for n in range(1, len(tokens) + 1)}
    assert tree.tokens == len(prefixes) == tree.flat(torch.device("cpu")).tokens
    # Nodes branch or end: no node has a single child.
    parents = [p for p in tree.parents if p is not None]
    assert all(parents.count(p) > 1 for p in parents)


@pytest.mark.parametrize("seed", range(5))
def test_without_branches_only_continued_sequences_are_shared(seed):
    wanted = sequences(seed)
    tree = grow(wanted, branch=False)
    assert set(tree.parents) == {None}
    whole = {s for s in wanted if not any(o != s and o[: len(s)] == s for o in wanted)}
    assert sorted(tree.documents) == sorted(whole)
    assert all(
        tree.documents[node][: len(tokens)] == tokens
        for node, tokens in zip(tree.nodes, wanted, strict=True)
    )


def test_texts_that_continue_each_other_may_nest_deeply():
    wanted = [(*[1] * n, 2) for n in range(3000)]
    assert grow(wanted).tokens == 2999 + 3000


def test_shared_prefixes_have_the_length_of_a_loop():
    rng = random.Random(0)
    for _ in range(300):
        a, b = (tuple(rng.choices(range(2), k=rng.randrange(7))) for _ in range(2))
        loop = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        assert shared(a, b) == (min(len(a), len(b)) if loop is None else loop)
