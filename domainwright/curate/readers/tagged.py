"""Sentences with their entities: tagged word by word, or texts with the places of entities."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from domainwright.core.records import Tagged
from domainwright.curate._cells import Unusable, column, kind, text, unpacked
from domainwright.curate._place import Place, origin
from domainwright.curate.readers import READERS, Columns
from domainwright.maths.spans import OUTSIDE, Span, is_tag, spans_of, tags_of
from domainwright.maths.words import pieces

STARTS, ENDS = ("start", "start_offset", "begin"), ("end", "end_offset", "stop")
KINDS = ("label", "type", "tag", "entity", "labels")
PLACES = ("start", "start_offset")
"""What tells a list of spans from another one."""


@READERS.register
class TaggedSentences:
    """{"tokens": ["Take", "aspirin"], "tags": ["O", "B-DRUG"]}, or
    {"text": "Take aspirin", "entities": [{"start": 5, "end": 12, "label": "DRUG"}]}

    Tags are BIO, IOB1, BIOES or BILOU, kept as BIO; numbers need their names in `tag_names`. Places
    count characters, the end is not included, and [5, 12, "DRUG"] says the same. A text is cut into
    words and signs (`maths.words.pieces`), and also where an entity begins or ends.
    """

    priority = 25
    columns: ClassVar[Columns] = {
        "words": ("tokens", "words"),
        "tags": ("ner_tags", "tags", "ner", "bio", "labels"),
        "names": ("tag_names", "label_names", "names"),
        "text": ("text", "sentence", "content", "body", "document", "passage", "note"),
        "spans": ("entities", "spans", "label", "labels"),
    }
    needs = ("words", "tags")

    def matches(self, columns: set[str]) -> bool:
        listed = {name.removesuffix(":empty") for name in columns}
        if all(any(f"{x}[]" in listed for x in self.columns[role]) for role in self.needs):
            return True
        signs = ("[][]", "[]:empty", *(f"[].{name}" for name in PLACES))
        marked = any(f"{x}{sign}" in columns for x in self.columns["spans"] for sign in signs)
        return marked and column(columns, self.columns["text"]) is not None

    def row(self, record: Mapping[str, Any], place: Place) -> Tagged:
        words = _listed(record, self.columns["words"])
        tags = _listed(record, self.columns["tags"])
        if words is not None and tags is not None and not any(isinstance(x, dict) for x in words):
            sentence = _tagged(words, tags, _listed(record, self.columns["names"]), place)
        else:
            spans = _listed(record, self.columns["spans"])
            if column(record, self.columns["text"]) is None or spans is None:
                asked = "words and tags, or text and entities"
                raise Unusable("missing_column", f"no lists of {asked}")
            own = text(record, self.columns["text"], "empty_text")
            sentence = _cut(own, [_span(item, own) for item in spans])
        words_found, tags_found = sentence
        return Tagged(**origin(record, place), words=tuple(words_found), tags=tuple(tags_found))


def _listed(record: Mapping[str, Any], names: Sequence[str]) -> list[Any] | None:
    """The list in the first of these columns that holds one; None where none does."""
    for name in names:
        value = unpacked(record.get(name))
        if isinstance(value, (list, tuple)):
            return list(value)
    return None


def _tagged(
    words: list[Any], tags: list[Any], names: list[Any] | None, place: Place
) -> tuple[list[str], list[str]]:
    """(words, BIO tags) of a sentence that is tagged word by word."""
    if len(words) != len(tags):
        raise Unusable("tags_do_not_match", f"{len(words)} words and {len(tags)} tags")
    if not words:
        raise Unusable("empty_sentence", "a sentence without words")
    strange = [word for word in words if not isinstance(word, str)]
    if strange:
        raise Unusable("wrong_type", f"a word is {kind(strange[0])}, not text")
    named = [_named(tag, names) for tag in tags]
    spans = [Span(a, b, " ".join(name.split())) for a, b, name in spans_of(named)]
    tags = tags_of(spans, len(words))
    # spaCy counts line breaks as words.
    blank = [n for n, word in enumerate(words) if not word.strip()]
    if any(tags[n] != OUTSIDE for n in blank):
        raise Unusable("blank_entity", "a blank word is tagged as an entity")
    if len(blank) == len(words):
        raise Unusable("empty_sentence", "nothing but blank words")
    if blank:
        place.notes["blank_words"] += len(blank)
    kept = [(" ".join(word.split()), tag) for word, tag in zip(words, tags, strict=True)]
    return [w for w, _ in kept if w], [tag for w, tag in kept if w]


def _named(tag: Any, names: list[Any] | None) -> str:
    """A tag as text; of a number the name."""
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None:
            raise Unusable(
                "tags_without_names",
                f"the tag {tag} is a number: add a field tag_names with the names in order, as "
                f'["O", "B-DRUG", …], or write the names themselves',
            )
        if not 0 <= tag < len(names):
            raise Unusable("unknown_tag", f"the tag {tag}, and there are {len(names)} names")
        tag = names[tag]
    if not is_tag(tag):
        raise Unusable("unknown_tag", f"{kind(tag)} is none of O, B-TYPE, I-TYPE")
    return str(tag)


def _span(item: Any, text: str) -> Span:
    """The characters of an entity, without spaces around it."""
    start, end, label = _parts(item)
    if isinstance(label, (list, tuple)) and len(label) == 1:
        label = label[0]
    if not _whole(start) or not _whole(end) or not isinstance(label, str) or not label.strip():
        raise Unusable("bad_span", f"{str(item)[:80]} is no start, end and label")
    label = " ".join(label.split())
    if not is_tag(f"B-{label}"):
        raise Unusable("bad_span", f"{kind(label)} cannot be the name of a type")
    if not 0 <= start < end <= len(text):
        raise Unusable("bad_span", f"{start} to {end} in a text of {len(text)} characters")
    inside = text[start:end]
    if not inside.strip():
        raise Unusable("bad_span", f"nothing but spaces from {start} to {end}")
    start += len(inside) - len(inside.lstrip())
    return Span(start, start + len(inside.strip()), label)


def _parts(item: Any) -> tuple[Any, Any, Any]:
    """(start, end, label) as they are written; None for what is not there."""
    if isinstance(item, dict):
        start, end, label = (
            next((item[name] for name in names if name in item), None)
            for names in (STARTS, ENDS, KINDS)
        )
        return start, end, label
    return tuple(item) if isinstance(item, (list, tuple)) and len(item) == 3 else (None,) * 3


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _cut(text: str, spans: list[Span]) -> tuple[list[str], list[str]]:
    """(words, BIO tags) of a text; words are cut where an entity begins or ends inside them."""
    spans = sorted(set(spans))
    for one, other in pairwise(spans):
        if other.start < one.end:
            raise Unusable(
                "overlapping_spans", f"{text[slice(*one[:2])]!r} and {text[slice(*other[:2])]!r}"
            )
    edges = {end for span in spans for end in span[:2]}
    places = []
    for start, end in pieces(text):
        inner = sorted(edge for edge in edges if start < edge < end)
        places += list(pairwise((start, *inner, end)))
    if not places:
        raise Unusable("empty_sentence", "a text without words")
    first = {start: n for n, (start, _) in enumerate(places)}
    last = {end: n + 1 for n, (_, end) in enumerate(places)}
    found = [Span(first[a], last[b], label) for a, b, label in spans]
    return [text[a:b] for a, b in places], tags_of(found, len(places))
