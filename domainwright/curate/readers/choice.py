"""A question with one right choice among several."""

from collections.abc import Mapping
from typing import Any, ClassVar

from domainwright.core.records import Choice
from domainwright.curate._cells import Unusable, as_text, column, optional, pick, text
from domainwright.curate._choices import letters, listed, right_one
from domainwright.curate._place import Place, origin
from domainwright.curate.readers import READERS, Columns


@READERS.register
class Choices:
    """{"question": "…", "choices": ["…", "…"], "answer": 0}

    The choices may be a list, {"label": […], "text": […]}, {"A": "…", "B": "…"}, or
    one column each (a, b, c; choice_a; option1). The answer is an index from 0, a
    letter, or the text of the choice.
    """

    priority = 60
    columns: ClassVar[Columns] = {
        "question": ("question", "query", "prompt", "instruction", "input", "stem"),
        "choices": ("choices", "options", "answers", "candidates"),
        "answer": (
            *("answer", "answer_idx", "answer_index", "label", "gold", "correct"),
            *("answerkey", "answer_key", "correct_answer", "target", "cop"),
        ),
        "context": ("context", "passage"),
    }
    needs = ("question", "choices", "answer")

    def matches(self, columns: set[str]) -> bool:
        offered = column(columns, self.columns["choices"]) or letters(columns)
        asked = column(columns, self.columns["question"])
        return bool(offered and asked and column(columns, self.columns["answer"]))

    def row(self, record: Mapping[str, Any], place: Place) -> Choice:
        question = text(record, self.columns["question"], "empty_question")
        context = optional(record, self.columns["context"])
        labels, values = listed(record, self.columns["choices"])
        choices = tuple(as_text(value, "empty_choice", "a choice").strip() for value in values)
        if len(choices) < 2:
            raise Unusable("too_few_choices", f"{len(choices)} choices; at least 2 are needed")
        twice = sorted({choice for choice in choices if choices.count(choice) > 1})
        if twice:
            raise Unusable("duplicate_choices", f"the choice {twice[0][:60]!r} stands twice")
        if column(record, self.columns["answer"]) is None:
            raise Unusable("missing_column", "no column says which choice is right")
        answer = right_one(pick(record, self.columns["answer"]), labels, choices)
        return Choice(
            **origin(record, place),
            question=question,
            choices=choices,
            answer=answer,
            context=context,
        )
