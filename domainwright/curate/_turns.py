"""Turns of a conversation, as users write them, to messages in order."""

from typing import Any

from domainwright.core.records import Message
from domainwright.curate._cells import Unusable, as_text, kind, pick, unpacked
from domainwright.curate._place import Place

CHAT_COLUMNS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog", "turns")
NO_CONTENT = "a turn of the assistant has no content at all"
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "ai"), "assistant"),
}
_EMPTY = {"system": "empty_system", "user": "empty_question", "assistant": "empty_answer"}


def conversation(value: Any, place: Place) -> tuple[Message, ...]:
    """Messages that end with the assistant. User turns without a reply at the end are cut.

    Raises:
        Unusable: no list of turns, an unknown role, or roles out of order.
    """
    messages = messages_of(value)
    end = len(messages)
    while end and messages[end - 1].role == "user":
        end -= 1
    if not any(message.role == "assistant" for message in messages):
        raise Unusable("no_assistant_turn", f"{len(messages)} turns, none by the assistant")
    if end < len(messages):
        place.notes["unanswered_user_turn_cut"] += len(messages) - end
    return in_order(messages[:end])


def messages_of(value: Any) -> tuple[Message, ...]:
    """The turns as they stand. Empty ones are kept; `in_order` judges them."""
    turns = unpacked(value)
    if isinstance(turns, dict):
        # {"role": [...], "content": [...]} is how some table libraries store turns.
        raise Unusable("wrong_type", "the turns are one object, not a list")
    if not isinstance(turns, (list, tuple)):
        raise Unusable("wrong_type", f"the turns are {kind(turns)}, not a list")
    return tuple(_message(turn) for turn in turns)


def prompt_in_order(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """`in_order` for a prompt: it ends with the user.

    Neighbouring turns of one speaker are joined here, which `conversation` does not do:
    a prompt is only context, so nothing is learnt from where one reply ends.
    """
    joined: list[Message] = []
    for message in messages:
        if joined and message.role == joined[-1].role != "system" and message.content.strip():
            message = Message(message.role, f"{joined.pop().content}\n\n{message.content}")
        joined.append(message)
    prompt = in_order(tuple(joined))
    if not prompt or prompt[-1].role != "user":
        raise Unusable("roles_out_of_order", "the prompt does not end with the user")
    return prompt


def in_order(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages without an empty system turn, if user and assistant take turns.

    Raises:
        Unusable: roles out of order, or an empty turn.
    """
    if messages and messages[0].role == "system" and not messages[0].content.strip():
        messages = messages[1:]
    body = messages[1:] if messages and messages[0].role == "system" else messages
    for position, message in enumerate(body):
        if message.role != ("user", "assistant")[position % 2]:
            roles = ", ".join(m.role for m in messages[:8])
            raise Unusable("roles_out_of_order", f"the turns are: {roles}")
    for message in messages:
        if not message.content.strip():
            raise Unusable(_EMPTY[message.role], f"a turn of the {message.role} holds nothing")
    return messages


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise Unusable("wrong_type", f"a turn is {kind(turn)}, not an object")
    role = pick(turn, ("role", "from", "speaker"))
    known = _ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise Unusable("unknown_role", f"the role of a turn is {kind(role)}")
    content = pick(turn, ("content", "value", "text", "message"))
    if content is None and known == "assistant":
        raise Unusable("empty_answer", NO_CONTENT)
    return Message(known, _content(content))


def _content(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        return as_text(value, "empty_turn", "the content of a turn")
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        raise Unusable("wrong_type", "a turn holds something other than text")
    return "".join(part["text"] for part in value)


def packed_turns(value: Any) -> list[Any] | None:
    """A list of turns, also one that a table holds as text; None for anything else.

    A reply such as "[1, 2]" is text, not turns, though it parses as a list.
    """
    found = unpacked(value)
    turns = isinstance(found, list) and bool(found) and isinstance(found[0], dict)
    return found if turns else None


def has_turns(columns: set[str], names: tuple[str, ...], key: str) -> bool:
    """True when a column of `names` holds turns that have `key`."""
    return any(f"{name}[].{key}" in columns for name in names)
