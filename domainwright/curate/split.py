"""Train, dev and test that share no group and no near-duplicate; folds that share none.

Groups that hold near-duplicates of each other are tied together; what is tied goes
to one side as a whole. The draw depends on the seed and on the names of the groups,
never on the order of the rows.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.records import Row
from domainwright.core.seeds import share
from domainwright.curate.content import content
from domainwright.curate.duplicates import conflicting_answers
from domainwright.curate.near_duplicates import EXACT_BELOW_WORDS, Groups, clusters


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Three parts of one dataset."""

    train: tuple[Row, ...]
    dev: tuple[Row, ...]
    test: tuple[Row, ...]
    merged_groups: tuple[tuple[str, ...], ...]
    """Groups that were tied together because they hold near-duplicates."""
    facts: dict[str, Any]
    """Counts: rows and groups per part, tied groups, conflicting answers."""


def split(
    rows: Sequence[Row],
    *,
    seed: int,
    test_share: float = 0.2,
    dev_share: float = 0.1,
    test_items: int | None = None,
    by_date: bool = False,
) -> Split:
    """Divide rows. Call `drop_duplicates` first.

    Args:
        test_share, dev_share: shares of the rows, in [0, 1); 0 makes no such part.
        test_items: rows to test on, instead of a share.
        by_date: the newest rows are the test, the next newest dev. What is tied
            together is as new as its newest row.

    Raises:
        ConfigError: shares out of range.
        DataError: too few groups to fill every part, or dates are missing.
    """
    if min(test_share, dev_share) < 0 or not test_share + dev_share < 1:
        raise ConfigError(
            f"test_share is {test_share} and dev_share is {dev_share}; nothing would be left.",
            "give shares such as 0.2 and 0.1, together below 1.",
        )
    want = {
        "test": round(test_share * len(rows)) if test_items is None else test_items,
        "dev": round(dev_share * len(rows)),
    }
    used = {
        "test": bool(test_share) if test_items is None else test_items > 0,
        "dev": dev_share > 0,
    }
    if want["test"] + want["dev"] >= len(rows) > 0:
        raise ConfigError(
            f"{want['test']} test and {want['dev']} dev rows leave none of {len(rows)} to train.",
            "ask for fewer, or give more data.",
        )
    tied, merged = _tied(rows)
    ordered = _newest_first(tied) if by_date else _drawn(tied, seed)
    parts = _filled(ordered, {name: max(1, want[name]) for name in want if used[name]}, by_date)
    missing = [
        name for name in ("train", "dev", "test") if used.get(name, True) and not parts[name]
    ]
    if missing:
        raise _too_few(rows, tied, missing[0], 1 + sum(used.values()))
    return _result(rows, parts, merged, {"by_date": by_date, "seed": seed})


def folds(rows: Sequence[Row], count: int, *, seed: int) -> tuple[Split, ...]:
    """As many splits, in which every row is tested exactly once; all others train there.

    Args:
        count: of the splits, at least 2 and at most the groups after near-duplicates are tied.

    Raises:
        DataError: too few groups.
    """
    tied, merged = _tied(rows)
    if not 2 <= count <= len(tied):
        raise DataError(
            f"{len(rows):,} rows in {len({row.group for row in rows}):,} groups ({len(tied):,} "
            f"after near-duplicates are tied) make no {count} folds.",
            "ask for at least 2 folds and at most one for each group, or give more data.",
        )
    tested: list[set[int]] = [set() for _ in range(count)]
    # The largest first, each to the fold that has the fewest rows: folds of one size are what the
    # intervals reckon with.
    for block in sorted(_drawn(tied, seed), key=len, reverse=True):
        min(tested, key=len).update(map(id, block))
    everyone = set(map(id, rows))
    return tuple(
        _result(
            rows,
            {"train": everyone - here, "dev": set(), "test": here},
            merged,
            {"seed": seed, "fold": number, "folds": count},
        )
        for number, here in enumerate(tested, 1)
    )


def undivided(rows: Sequence[Row], dev: Sequence[Row] = ()) -> Split:
    """All rows in the train part, and no test part."""
    parts = {"train": set(map(id, rows)), "dev": set(map(id, dev)), "test": set[int]()}
    return _result([*rows, *dev], parts, (), {"given": True})


def independent(rows: Sequence[Row]) -> int:
    """Groups after those that hold near-duplicates of each other are tied."""
    return len(_tied(rows)[0])


def split_given(
    train: Sequence[Row], test: Sequence[Row], dev: Sequence[Row] | None = None
) -> Split:
    """Parts that the user brought. Nothing is moved; see `overlap` for leaks between them."""
    for name, rows in {"train": train, "test": test}.items():
        if not rows:
            raise DataError(f"The {name} part holds no row.", f"give a {name} file with rows.")
    parts = {
        "train": set(map(id, train)),
        "dev": set(map(id, dev or ())),
        "test": set(map(id, test)),
    }
    return _result([*train, *(dev or ()), *test], parts, (), {"given": True})


def _tied(rows: Sequence[Row]) -> tuple[list[list[Row]], tuple[tuple[str, ...], ...]]:
    """(rows that must stay together, groups that near-duplicates tied)."""
    names = sorted({row.group for row in rows})
    place = {name: n for n, name in enumerate(names)}
    groups = Groups(len(names))
    first: dict[int, str] = {}
    found = clusters([content(row) for row in rows], exact_below_words=EXACT_BELOW_WORDS)
    for row, cluster in zip(rows, found, strict=True):
        groups.join(place[row.group], place[first.setdefault(cluster, row.group)])
    tied, members = defaultdict[int, list[Row]](list), defaultdict[int, list[str]](list)
    for row in rows:
        tied[groups.root(place[row.group])].append(row)
    for name in names:
        members[groups.root(place[name])].append(name)
    merged = tuple(tuple(found) for _, found in sorted(members.items()) if len(found) > 1)
    return [tied[root] for root in sorted(tied)], merged


def _drawn(tied: list[list[Row]], seed: int) -> list[list[Row]]:
    """In an order drawn from the seed and the smallest group name."""
    return sorted(tied, key=lambda rows: share(seed, min(row.group for row in rows)))


def _newest_first(tied: list[list[Row]]) -> list[list[Row]]:
    undated = [row for rows in tied for row in rows if row.date is None]
    if undated:
        first = undated[0]
        raise DataError(
            f"{len(undated):,} rows have no date in ISO form (first: {first.file}, "
            f"line {first.line}).",
            "write dates such as 2024-05-31, name the column with `columns: {date: …}`, "
            "or split without dates.",
        )
    named = sorted(tied, key=lambda rows: min(row.group for row in rows))
    return sorted(named, key=lambda rows: max(str(row.date) for row in rows), reverse=True)


def _filled(
    ordered: list[list[Row]], want: Mapping[str, int], by_date: bool
) -> dict[str, set[int]]:
    """Part -> identities of its rows. What fits nowhere trains."""
    left = list(ordered)
    parts: dict[str, set[int]] = {"train": set(), "dev": set(), "test": set()}
    # The largest block trains; where little is left beside it, test and dev share that.
    beside = sum(map(len, ordered)) - max(map(len, ordered), default=0)
    scale = 1.0 if by_date else min(1.0, beside / max(1, sum(want.values())))
    for reserved, name in ((len(want), "test"), (1, "dev")):
        if name not in want:
            continue
        limit = max(1, round(scale * want[name]))
        taken, size = list[list[Row]](), 0
        for rows in left:
            # By date nothing may be skipped: an older row in the test than in train
            # would let the model see the future.
            fits = size < limit and (by_date or size + len(rows) <= limit)
            if fits and len(left) - len(taken) > reserved:
                taken.append(rows)
                size += len(rows)
        if not taken and left:
            taken.append(left[0] if by_date else min(left, key=len))
        chosen = set(map(id, taken))
        left = [rows for rows in left if id(rows) not in chosen]
        parts[name] = {id(row) for rows in taken for row in rows}
    parts["train"] = {id(row) for rows in left for row in rows}
    return parts


def _too_few(rows: Sequence[Row], tied: list[list[Row]], missing: str, parts: int) -> DataError:
    groups = len({row.group for row in rows})
    return DataError(
        f"{len(rows):,} rows in {groups:,} groups ({len(tied):,} after near-duplicates are tied) "
        f"leave the {missing} part empty; {parts} parts need {parts} independent groups.",
        "give more data, give the test as a file of its own, or check that the `group` "
        "column names documents or patients and not the whole collection.",
    )


def _result(
    rows: Sequence[Row],
    parts: Mapping[str, set[int]],
    merged: tuple[tuple[str, ...], ...],
    settings: dict[str, Any],
) -> Split:
    chosen = {
        name: tuple(row for row in rows if id(row) in parts[name])
        for name in ("train", "dev", "test")
    }
    facts = {
        **settings,
        "rows": {name: len(part) for name, part in chosen.items()},
        "groups": {name: len({row.group for row in part}) for name, part in chosen.items()},
        "tied_groups": sum(len(group) for group in merged),
        "conflicting_answers": conflicting_answers(rows),
    }
    return Split(**chosen, merged_groups=merged, facts=facts)
