"""Conversations answered turn by turn, after the model's own earlier replies and after the file's.

A test item asks for the last turn after what the file says before it. In use a model reads what it
said itself, and a slip in the first turn is the ground of the second:

    own history     u₁ → r₁,  u₁ r₁ u₂ → r₂,  u₁ r₁ u₂ r₂ u₃ → r₃, …    u from the file, r its own
    file's history  u₁ a₁ u₂ → r₂', …                                    a from the file

Turn 1 has no history and is the same in both; the last turn after the file's history is the test
item itself. So a conversation of T turns takes 2 T - 2 further answers.

All conversations' first turns are asked together, then all second ones, and so on. What an
assistant says before a user has spoken is no turn and stays the file's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Chat, Row
from domainwright.evaluate.records import Item
from domainwright.evaluate.tasks.answers import marked, replies_of
from domainwright.models.base import Base
from domainwright.models.forms import Prompt


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of all conversations that have so many."""

    number: int
    """From 1."""
    own: tuple[Item, ...]
    """After the model's own replies."""
    file: tuple[Item, ...]
    """After the file's, of conversations that go on behind this turn; of turn 1 those of `own`."""


Ask = Callable[[int, Sequence[Chat], Sequence[Chat]], tuple[Sequence[Item], Sequence[Item]]]
"""(turn, rows with own history, rows with the file's) -> the marked replies of both."""


def places(row: Row) -> tuple[int, ...]:
    """Where the replies to a user stand in a conversation; none of other rows.

    Nothing of one whose last message follows no user, either: its last turn is no test item.
    """
    if type(row) is not Chat or len(row.messages) < 2 or row.messages[-2].role != "user":
        return ()
    roles = [m.role for m in row.messages]
    return tuple(n for n in range(1, len(roles)) if roles[n - 1 : n + 1] == ["user", "assistant"])


def up_to(row: Chat, number: int, said: Sequence[str] = ()) -> Chat:
    """The row as far as the reply of turn `number`, which is what it asks for.

    Args:
        said: takes the place of the file's replies of the turns before. Empty: they stay.
    """
    where = places(row)
    messages = list(row.messages[: where[number - 1] + 1])
    for place, text in zip(where[: number - 1], said, strict=False):
        messages[place] = replace(messages[place], content=text)
    return replace(row, messages=tuple(messages))


def in_turn(rows: Sequence[Chat], ask: Ask) -> list[Turn]:
    """Every turn of the conversations, in order."""
    said: dict[str, list[str]] = {row.id: [] for row in rows}
    found = []
    for number in range(1, 1 + max((len(places(row)) for row in rows), default=0)):
        here = [row for row in rows if len(places(row)) >= number]
        on = [row for row in here if len(places(row)) > number]
        own, file = ask(
            number,
            [up_to(row, number, said[row.id]) for row in here],
            [up_to(row, number) for row in on if number > 1],
        )
        for item in own:
            said[item.id].append(item.reply)
        known = {row.id for row in on}
        same = [item for item in own if item.id in known] if number == 1 else file
        found.append(Turn(number, tuple(own), tuple(same)))
    return found


def replied(
    base: Base,
    rows: Sequence[Chat],
    prompts: Sequence[Prompt],
    *,
    decide_by: str,
    new_tokens: int,
    listen: Listener = quiet,
    stage: str = "turns",
) -> list[Item]:
    """The rows answered and marked, without the loss of their references.

    Raises:
        ConfigError: a conversation does not fit into the base's context.
    """
    replies = replies_of(
        base, rows, prompts, new_tokens=new_tokens, listen=listen, stage=stage, losses=False
    )
    return [marked(*one, decide_by) for one in zip(rows, prompts, replies, strict=True)]


def repeats(turns: Sequence[Sequence[str]]) -> int:
    """How many replies say word for word what an earlier one of their conversation says.

    >>> repeats([["Take it.", "Take  it.", "Why?"], ["No.", "Yes."]])
    1
    """
    count = 0
    for replies in turns:
        words = [reply.split() for reply in replies]
        count += sum(bool(own) and own in words[:n] for n, own in enumerate(words))
    return count
