"""Checks before training: each refuses a run that would look healthy and learn the wrong thing.

The cases are real ones: labels all masked with a normal loss curve (TRL #6671), a pad token
equal to the end token that masks every end (transformers #23530), doubled BOS
(open-r1 #462), a template at inference unlike the one at training (unsloth #877), answers
cut by the length limit without a word (axolotl #775).
"""

from collections.abc import Sequence

from domainwright.core.errors import DataError
from domainwright.core.records import Chat, Row, SetAside
from domainwright.models.base import Base
from domainwright.models.forms import TrainRow


def check_rows(
    base: Base, rows: Sequence[TrainRow], *, max_cut_share: float, max_tokens: int
) -> tuple[list[TrainRow], list[SetAside]]:
    """The rows fit for training, and those set aside because the limit cuts their answer.

    Raises:
        DataError: the first check that fails, with what was found and what to do.
    """
    if not rows:
        raise DataError("There is no training row.", "give a data file with usable rows.")
    kept, aside = _without_cut(rows, max_cut_share, max_tokens)
    for row in kept:
        _supervision(base, row)
        _single_bos(base, row)
    _prompts_differ(kept)
    return kept, aside


def _without_cut(
    rows: Sequence[TrainRow], max_cut_share: float, max_tokens: int
) -> tuple[list[TrainRow], list[SetAside]]:
    cut = [row for row in rows if row.cut]
    if len(cut) > max_cut_share * len(rows) or len(cut) == len(rows):
        longest = max(len(row.ids) + row.cut for row in cut)
        raise DataError(
            f"The limit of {max_tokens} tokens cuts the answer of {len(cut)} of {len(rows)} rows "
            f"({len(cut) / len(rows):.0%}); the longest row has {longest} tokens.",
            f"set `train: {{max_tokens: {longest}}}`, or raise train.max_cut_share to leave "
            "those rows out.",
        )
    aside = [
        SetAside.of(
            row,
            "answer_cut",
            f"{row.cut} of {len(row.ids) + row.cut} tokens lie beyond the limit of {max_tokens}",
        )
        for row in cut
    ]
    return [row for row in rows if not row.cut], aside


def _supervision(base: Base, row: TrainRow) -> None:
    if not row.targets:
        raise DataError(
            f"Row {row.id!r} has no supervised token, so it teaches nothing.",
            "give it an assistant turn with text, or remove it.",
        )
    if not row.conversation:
        return
    stops = base.template.stops
    ends = [i for i, token in enumerate(row.ids) if token in stops and i and row.supervised[i - 1]]
    if ends and not any(row.supervised[i] for i in ends):
        token = base.tokenizer.decode([row.ids[ends[-1]]])
        if row.ids[ends[-1]] == base.tokenizer.pad_token_id:
            raise DataError(
                f"Row {row.id!r}: the end-of-turn token {token!r} is also the pad token and is "
                "masked as padding, so the model would never learn to stop.",
                "mask padding by position, not by token id, or give the tokenizer a pad token of "
                "its own.",
            )
        raise DataError(
            f"Row {row.id!r}: the end-of-turn token {token!r} is not supervised, so the model "
            "would never learn to stop.",
            "supervise the token that closes the assistant's turn.",
        )
    last = max(i for i, on in enumerate(row.supervised) if on)
    if row.ids[last] not in stops:
        raise DataError(
            f"Row {row.id!r} ends with {base.tokenizer.decode([row.ids[last]])!r}, not with an "
            "end-of-turn token: the base's chat template does not close the assistant's turn.",
            "use a chat template that writes the end-of-sequence token after each answer.",
        )


def _single_bos(base: Base, row: TrainRow) -> None:
    bos = base.tokenizer.bos_token_id
    if bos is not None and row.ids[:2] == [bos, bos]:
        raise DataError(
            f"Row {row.id!r} begins with two beginning-of-sequence tokens.",
            "let the chat template or the tokenizer add it, not both "
            "(`add_special_tokens=False` on text that a template rendered).",
        )


def _prompts_differ(rows: Sequence[TrainRow]) -> None:
    prompts = set()
    for row in rows:
        if not row.conversation:
            return
        start = next(i for i, on in enumerate(row.supervised) if on)
        prompts.add(tuple(row.ids[:start]))
    if len(rows) >= 4 and len(prompts) == 1:
        raise DataError(
            f"All {len(rows)} rows have the same prompt, so the model cannot learn what an "
            "answer depends on.",
            "map the column with the questions: `columns: {question: NAME}` in the study file.",
        )


def check_template(base: Base, rows: Sequence[Row], encoded: Sequence[TrainRow]) -> None:
    """The tokens at inference must be the beginning of the tokens at training.

    Raises:
        DataError: they differ, with the first place where they do.
    """
    by_id = {row.id: row for row in encoded}
    for row in rows:
        if not isinstance(row, Chat) or row.id not in by_id:
            continue
        trained = by_id[row.id].ids
        asked = base.template.prompt(row.messages[:-1])[: len(trained)]
        if trained[: len(asked)] != asked:
            place = next(i for i, (a, b) in enumerate(zip(trained, asked, strict=False)) if a != b)
            seen = base.tokenizer.decode(trained[max(0, place - 3) : place + 5])
            wanted = base.tokenizer.decode(asked[max(0, place - 3) : place + 5])
            raise DataError(
                f"Row {row.id!r} is trained on another template than it is asked with: token "
                f"{place} is in {seen!r} at training and in {wanted!r} at inference.",
                "use one chat template for both; check `add_generation_prompt` in the template.",
            )


def check_detectable(items: int, detectable: float, wanted: float | None) -> None:
    """Refuse a test set that cannot show the difference that was asked for.

    Args:
        detectable: smallest difference seen with 80 % power, in score points of 0 to 1.

    Raises:
        DataError: `wanted` is smaller.
    """
    if wanted is not None and detectable > wanted:
        needed = round(items * (detectable / wanted) ** 2)
        raise DataError(
            f"The test set of {items} items can show a difference of {detectable:.1%}, not the "
            f"{wanted:.1%} asked for.",
            f"give about {needed} test items, or ask for a difference of {detectable:.0%}.",
        )
