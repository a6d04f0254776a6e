"""Champion against challenger: is something gained, and is nothing lost?

Accepted where all of this holds:

    gain        paired bootstrap over groups: the 95 % interval of the score lies above 0, and the
                sign-flip permutation test has p < level
    parts       no task or topic with ITEMS rows is worse (Holm over the parts, 5 %)
    forgetting  against the base: at most `max_forgetting` nats per token of general text, and no
                more than its `max_drop` on a task of lm-eval;
                against the champion: not significantly more than a TENTH of that further, and
                general choices not significantly worse

The level is halved with every round: 2.5 % in the first, 1.25 % in the second. The same rows judge
every round, and at a fixed level one of many challengers would be accepted by luck; so all rounds
together do that at most 5 times in 100.

A difference on general text can be significant and too small to matter, because the items are
paired: hence the TENTH.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from domainwright.evaluate.records import Item
from domainwright.evaluate.retained import Change
from domainwright.maths.significance import holm
from domainwright.studies._format import SHARE, nats, p_value, unit
from domainwright.studies._limits import over_limit
from domainwright.studies._scores import weighed
from domainwright.studies.judge import ALPHA, REFERENCE, compare, summarise
from domainwright.studies.records import Difference
from domainwright.studies.refine.records import Decision, Part

TENTH = 0.1
ITEMS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """By what a challenger is judged."""

    score: str
    round: int
    max_forgetting: float

    @property
    def level(self) -> float:
        """Of this round's test of gain."""
        return float(ALPHA / 2**self.round)


def decide(
    champion: Sequence[Item],
    challenger: Sequence[Item],
    part_of: Mapping[str, str | None],
    against_base: Change,
    against_champion: Change,
    rules: Rules,
) -> Decision:
    """The decision with every reason.

    Args:
        champion, challenger: the same items, in the same order.
        part_of: row -> its task or topic, where it has one.
    """
    difference = _difference(champion, challenger)
    parts = _parts(champion, challenger, part_of)
    gained, gain = _gain(difference, rules)
    faults = [
        *_worse_parts(parts, rules.score),
        *_forgets(against_base, rules),
        *_forgets_more(against_champion, rules),
    ]
    accepted = gained and not faults
    groups = len({x.group for x in champion})
    changes = unit(rules.score).changes(difference)
    where = f"on {len(champion)} held-out development rows in {groups} groups"
    if accepted:
        sentence = (
            f"Accepted: the challenger gains {changes} in {unit(rules.score).label} {where} "
            "(95 % interval)."
        )
    else:
        why = faults[0] if gained else gain
        sentence = f"Refused, the champion stays: {why[0].lower()}{why[1:]}"
    reasons = [gain, *(faults or ["No part, and nothing of general ability, is worse."])]
    reasons.append(f"Forgotten against the base: {nats(against_base.nats_per_token)} nats a token.")
    return Decision(
        accepted=accepted,
        sentence=sentence,
        reasons=reasons,
        items=len(champion),
        groups=groups,
        level=rules.level,
        champion=summarise(champion)["score"],
        challenger=summarise(challenger)["score"],
        difference=difference,
        parts=parts,
        against_base=against_base,
        against_champion=against_champion,
    )


def hopeless(champion: Sequence[Item], rules: Rules) -> Decision | None:
    """The decision where no challenger could be accepted: nothing needs to be trained for it.

    The permutation test of G groups has p = 2^(1 - G) at best, when all of them gain.
    """
    groups = len({x.group for x in champion})
    least = 2.0 ** (1 - groups)
    if least < rules.level:
        return None
    needed = next(g for g in range(groups, 99) if 2.0 ** (1 - g) < rules.level)
    cause = (
        f"{groups} held-out groups of development rows allow p = {p_value(least)} at best, and "
        f"round {rules.round} has a level of {rules.level:.2g}: {needed} groups are needed. Run "
        "the study with a larger data.development_share, or with data.development."
    )
    return replace(
        failed(cause, champion, rules), sentence=f"Refused, nothing was trained: {cause}"
    )


def failed(cause: str, champion: Sequence[Item], rules: Rules) -> Decision:
    """The decision on a challenger that failed its own checks in training."""
    return Decision(
        accepted=False,
        sentence=f"Refused, the champion stays: the challenger failed its own checks. {cause}",
        reasons=[cause],
        items=len(champion),
        groups=len({x.group for x in champion}),
        level=rules.level,
        champion=summarise(champion)["score"],
    )


def _difference(champion: Sequence[Item], challenger: Sequence[Item]) -> Difference:
    return compare({REFERENCE: champion, "challenger": challenger})["challenger"]


def _gain(found: Difference, rules: Rules) -> tuple[bool, str]:
    """(whether something is gained, in a sentence)."""
    shown = f"{unit(rules.score).changes(found)} {unit(rules.score).label}"
    told = f"{shown}, p = {p_value(found.p)} at a level of {rules.level:.2g}".replace("= <", "<")
    if found.low > 0 and found.p < rules.level:
        return True, f"The gain is significant ({told})."
    if found.high < 0:
        return False, f"The challenger is worse ({told})."
    return False, f"No gain is shown ({told})."


def _parts(
    champion: Sequence[Item], challenger: Sequence[Item], part_of: Mapping[str, str | None]
) -> list[Part]:
    """Every part of the rows that has ITEMS of them, where there are several; p after Holm."""
    places = defaultdict[str, list[int]](list)
    for n, item in enumerate(champion):
        if (part := part_of.get(item.id)) is not None:
            places[part].append(n)
    found = {
        name: _difference(
            weighed([champion[n] for n in own]), weighed([challenger[n] for n in own])
        )
        for name, own in sorted(places.items())
        if len(own) >= ITEMS and len(places) > 1
    }
    corrected = holm({name: d.p for name, d in found.items()})
    return [
        Part(name=name, items=len(places[name]), difference=replace(d, p_holm=corrected[name]))
        for name, d in found.items()
    ]


def _worse_parts(parts: Sequence[Part], score: str) -> list[str]:
    return [
        f"The challenger is worse on {part.name} ({unit(score).changes(part.difference)}, "
        f"{part.items} rows)."
        for part in parts
        if part.difference.high < 0 and part.difference.p_holm < ALPHA
    ]


def _forgets(change: Change, rules: Rules) -> list[str]:
    over = over_limit(change.nats_per_token, change.tasks, rules.max_forgetting)
    return [f"Against the base the challenger {x.said}." for x in over.excesses] if over else []


def _forgets_more(change: Change, rules: Rules) -> list[str]:
    found = []
    if change.nats_per_token.low > TENTH * rules.max_forgetting:
        found.append(
            f"The challenger forgets more than the champion: {nats(change.nats_per_token)} nats "
            "per token of general text."
        )
    if change.accuracy.high < 0:
        found.append(
            f"The challenger answers fewer general questions than the champion: "
            f"{SHARE.changes(change.accuracy)}."
        )
    return found
