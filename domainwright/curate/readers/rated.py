"""One reply and whether it was wanted: rows for KTO."""

from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Message, Rated
from domainwright.curate._cells import Unusable, as_text, column, kind, pick, text
from domainwright.curate._history import before
from domainwright.curate._place import Place, origin
from domainwright.curate._turns import messages_of, packed_turns, prompt_in_order
from domainwright.curate.readers import READERS, Columns

_WANTED = ("wanted", "desirable", "thumbs_up")
_YES = {"true", "1", "yes", "desirable", "good"}
_NO = {"false", "0", "no", "undesirable", "bad"}


@READERS.register
class Ratings:
    """{"prompt": "…", "completion": "…", "label": true}"""

    priority = 70
    columns: ClassVar[Columns] = {
        "question": ("prompt", "question", "query", "instruction", "input"),
        "answer": ("completion", "response", "answer", "output", "reply"),
        "wanted": (*_WANTED, "label"),
        "system": ("system", "system_prompt"),
        "history": ("history",),
    }
    needs = ("question", "answer", "wanted")

    def matches(self, columns: set[str]) -> bool:
        # "label" alone may be a class or a right choice; true or false tells.
        told = column(columns, _WANTED) is not None or "label:bool" in columns
        return told and all(column(columns, self.columns[role]) for role in self.needs)

    def row(self, record: Mapping[str, Any], place: Place) -> Rated:
        wanted = _truth(record, self.columns["wanted"])
        earlier = before(record, self.columns["system"], self.columns["history"])
        asked = packed_turns(pick(record, self.columns["question"]))
        reply = packed_turns(pick(record, self.columns["answer"]))
        if asked is not None:
            turns = messages_of(asked)
        else:
            turns = (Message("user", text(record, self.columns["question"], "empty_question")),)
        if reply is not None:
            last = messages_of(reply)
            if [message.role for message in last] != ["assistant"]:
                raise Unusable("roles_out_of_order", "the reply is not one assistant turn")
            answer = as_text(last[0].content, "empty_answer", "the reply")
        else:
            answer = text(record, self.columns["answer"], "empty_answer")
        prompt = prompt_in_order((*earlier, *turns))
        return Rated(**origin(record, place), prompt=prompt, reply=answer, wanted=wanted)


def _truth(record: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    found = column(record, names)
    if found is None:
        raise Unusable("missing_column", f"none of the columns {', '.join(names)}")
    value = record[found]
    word = str(value).strip().lower() if isinstance(value, (bool, int, str)) else ""
    if word not in _YES | _NO:
        raise Unusable("wrong_type", f"{found} is {kind(value)}, neither true nor false")
    return word in _YES
