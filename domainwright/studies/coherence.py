"""What a strategy's own earlier turns cost it, where test rows are conversations of several turns.

    cost = mean over conversations of
           score of the last turn after its own replies - the same after the file's

paired, with a bootstrap over groups. Below 0: the strategy loses the thread that it spun itself.
It says nothing about whether a reply fits the conversation it stands in, only how near each is to
what the file says at that turn; a user's next turn is the file's even where it answers to nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

from domainwright.core.errors import ConfigError
from domainwright.core.records import Chat, Row
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.turns import Turn, places, repeats
from domainwright.studies import _format as f
from domainwright.studies.data import StudyData
from domainwright.studies.judge import lead, score_of
from domainwright.studies.study import StudySettings
from domainwright.studies.task_records import Coherence, TurnScore

FEWEST = 10
"""Conversations of several turns among the test items from which `auto` measures."""
MOST_ANSWERS = 100
"""Further answers of each strategy that `auto` asks for; FEWEST conversations may take more."""


def conversations(
    wanted: object, rows: Sequence[Row], asked: str = "evaluate.turns is true"
) -> list[Chat]:
    """Those of the test items that are asked turn by turn.

    Args:
        wanted: `evaluate.turns`: true: all; false: none; "auto": where there are FEWEST, as many
            as take MOST_ANSWERS further answers.
        asked: what asks for them, in words of an error.

    Raises:
        ConfigError: they are asked for, and no item has several turns.
    """
    several = [row for row in rows if isinstance(row, Chat) and len(places(row)) > 1]
    if wanted is True:
        if not several:
            raise ConfigError(
                f"{asked}, and none of {len(rows)} rows has two replies of the assistant.",
                "give conversations of several turns, or leave it out.",
            )
        return several
    if wanted is False or len(several) < FEWEST:
        return []
    count = FEWEST
    while count < len(several) and answers(several[: count + 1]) <= MOST_ANSWERS:
        count += 1
    return several[:count]


def answers(rows: Sequence[Chat]) -> int:
    """Answers that the conversations take beside the test items' own."""
    return sum(2 * len(places(row)) - 2 for row in rows)


def further(study: StudySettings, data: StudyData, items: int) -> tuple[int, list[str]]:
    """(answers that each strategy gives beside those to so many test items, what is left out).

    Raises:
        ConfigError: as `conversations`.
    """
    rows, wanted = data.test_items(items, study.seed), study.evaluate.turns
    return answers(conversations(wanted, rows)), left_out(wanted, rows)


def left_out(wanted: object, rows: Sequence[Row]) -> list[str]:
    """What `auto` leaves out, in a sentence; nothing where it leaves out nothing."""
    asked = len(conversations(wanted, rows))
    several = sum(len(places(row)) > 1 for row in rows)
    if not asked or asked == several:
        return []
    return [
        f"{asked} of {several} conversations are also asked turn by turn; `evaluate: {{turns: "
        "true}` asks all."
    ]


def coherence(
    strategy: str, rows: Sequence[Chat], turns: Sequence[Turn], last: Sequence[Item]
) -> Coherence:
    """The scores of one strategy.

    Args:
        rows: the conversations.
        last: its test items of at least these rows: the last turns after the file's history.
    """
    known = {item.id: _first_seed(item) for item in last}
    scores, ends = [], list[tuple[Item, Item]]()
    for turn in turns:
        file = {item.id: item for item in turn.file}
        pairs = [(_folded(x, known), _folded(file.get(x.id, known[x.id]), known)) for x in turn.own]
        ends += [pair for pair in pairs if pair[0].id not in file]
        scores.append(
            TurnScore(
                turn=turn.number,
                items=len(pairs),
                own=score_of([own for own, _ in pairs]),
                file=score_of([other for _, other in pairs]),
            )
        )
    said: dict[str, list[str]] = {row.id: [] for row in rows}
    for turn in turns:
        for item in turn.own:
            said[item.id].append(item.reply)
    written = [[row.messages[n].content for n in places(row)] for row in rows]
    return Coherence(
        strategy=strategy,
        conversations=len(rows),
        turns=scores,
        cost=lead([own for own, _ in ends], [other for _, other in ends]),
        later=sum(len(replies) - 1 for replies in written),
        repeated=repeats(list(said.values())),
        repeated_in_file=repeats(written),
    )


def told(found: Coherence, score: str) -> str:
    """One strategy in a sentence."""
    if found.failed or found.cost is None:
        return f"{found.strategy} could not be asked turn by turn: {found.failed}"
    own = f.unit(score).changes(found.cost)
    text = (
        f"{found.strategy} asked turn by turn ({found.conversations} conversations): its own "
        f"earlier replies change the last answer by {own} {f.unit(score).label}"
    )
    return f"{text}; {loops(found)}." if found.repeated else f"{text}."


def loops(found: Coherence) -> str:
    """How often it repeats itself, in words."""
    own = f"{f.count(found.repeated)} of {f.count(found.later)} later replies repeat an earlier one"
    in_file = found.repeated_in_file
    return f"{own} word for word" + (f" (in the file {f.count(in_file)})" if in_file else "")


def advice(found: Sequence[Coherence], winner: str, score: str) -> list[str]:
    """What its own history costs the winner, where that is decided or could not be measured."""
    own = next((x for x in found if x.strategy == winner), None)
    if own is None:
        return []
    if own.failed or own.cost is None:
        return [told(own, score)]
    if own.cost.high >= 0:
        return []
    return [
        f"In a conversation {winner} reads its own earlier replies, and that costs it: its last "
        f"answer of {f.count(own.conversations)} conversations scores "
        f"{f.unit(score).changes(own.cost)} against the one after the file's replies, by which it "
        "was chosen."
    ]


def _first_seed(item: Item) -> Item:
    """The item as the first training seed has it: the turns are of that one alone."""
    if not item.marks:
        return item
    return replace(item, mark=Mark(item.marks[0], item.mark.parsed), marks=())


def _folded(item: Item, known: dict[str, Item]) -> Item:
    """The item with the fold in which its row was answered."""
    return replace(item, fold=known[item.id].fold)
