"""Secrets to placeholders: [EMAIL_1], the same for the same value everywhere in a row."""

from collections import Counter
from collections.abc import Callable, Sequence

from domainwright.core.records import Row
from domainwright.curate._fields import mapped, parts
from domainwright.curate._personal import Secret
from domainwright.curate.filters import Change, Drop

Find = Callable[[Sequence[str]], list[list[Secret]]]
"""The texts of a row -> what each gives away, in order of place, none overlapping another."""


def redacted(row: Row, find: Find, what: str) -> Change | Drop | None:
    """The row with placeholders for what `find` finds; None where it finds nothing.

    A tagged row in which several words would become one placeholder is left out: its tags would
    slip, and it must not stay as it is.

    A value that is written in several ways is remembered in the longest of them. A placeholder
    that stands in the row already is not given out again, so that what stood there can be put back.
    """
    texts = [text for _, text in parts(row)]
    found = find(texts)
    if not any(found):
        return None
    placeholders, stood = dict[tuple[str, str], str](), dict[str, str]()
    counts, numbers = Counter[str](), Counter[str]()
    for secret in (secret for secrets in found for secret in secrets):
        key = (secret.kind, secret.same or secret.text)
        if key not in placeholders:
            counts[secret.kind] += 1
            placeholders[key] = _free(secret.kind, numbers, texts)
        placeholder = placeholders[key]
        stood[placeholder] = max(stood.get(placeholder, ""), secret.text, key=len)
    waiting = iter(found)

    def change(part: str, text: str) -> str:
        done, end = list[str](), 0
        for secret in next(waiting):
            key = (secret.kind, secret.same or secret.text)
            done += [text[end : secret.start], placeholders[key]]
            end = secret.end
        return "".join([*done, text[end:]])

    places = sum(map(len, found))
    better = mapped(row, change)
    if better is row:
        detail = f"a placeholder for {', '.join(sorted(counts))} would take several words' place"
        return Drop("tags_would_slip", detail)
    return Change(better, what, places, kinds=dict(counts), secrets=stood)


def _free(kind: str, numbers: Counter[str], texts: Sequence[str]) -> str:
    """The next placeholder of a kind that does not stand in the row already."""
    marked = [text for text in texts if f"[{kind}_" in text]
    while True:
        numbers[kind] += 1
        placeholder = f"[{kind}_{numbers[kind]}]"
        if not any(placeholder in text for text in marked):
            return placeholder
