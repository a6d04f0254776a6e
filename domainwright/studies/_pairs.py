"""What the retriever of a study is tuned on: queries with the passage that answers them.

    question -> passage    of the ten that BM25 finds for a training row's question and answer
                           together, the first that holds the answer's rarest words
    heading -> passage     title and section of a document, and the passage they stand above

The first is a guess (a pseudo-label), so a row without a clear passage is left out and counted.
Test and development rows are never looked at for a passage, and no query is one of their questions.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Document, Row, Text
from domainwright.core.seeds import generator, share
from domainwright.maths.words import words
from domainwright.models.encoder import default_encoder
from domainwright.models.forms import solved
from domainwright.prompting._index import Index, passages_of
from domainwright.prompting._sources import question_of
from domainwright.train import contrastive
from domainwright.train.contrastive import ContrastiveSettings, Pair

MOST_PAIRS = 512
"""Pairs of a study, drawn by its seed: a step of 32 takes seconds."""
SEARCHED = 10
"""Ranks among which a row's passage is looked for."""
RAREST = 3
"""Rare words of an answer that its passage must hold."""
RARE_SHARE = 0.1
"""A rare word stands in at most this share of the passages, or in one."""
FEWEST_GROUPS = 64
"""Below so many groups of documents, a section or page is a group of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPairs:
    pairs: tuple[Pair, ...]
    left_out: dict[str, int]
    """Reason -> rows or passages that gave no pair."""


def study_pairs(
    rows: Sequence[Row],
    documents: Sequence[Document],
    hidden: Sequence[Row],
    settings: ContrastiveSettings,
    *,
    seed: int = 0,
    most: int = MOST_PAIRS,
    listen: Listener = quiet,
    vectors: Path | None = None,
) -> StudyPairs:
    """Pairs of training rows and of headings, with hard negatives.

    Args:
        rows: training rows.
        hidden: test and development rows, whose questions no query may be.
        vectors: folder that keeps sentence vectors.
    """
    corpus = _Corpus(documents)
    index = Index(corpus.shown, listen, kinds=("lexical",))
    asked = _Asked(question_of(row) for row in hidden)
    left_out: Counter[str] = Counter()
    found: dict[str, tuple[Pair, int]] = {}
    for row in rows:
        if isinstance(row, Text) or row.provenance:
            continue
        number = corpus.answering(row, index)
        question = question_of(row)
        if number is None:
            left_out["no_clear_passage"] += 1
        elif question in asked:
            left_out["held_out_question"] += 1
        else:
            right = contrastive.Passage(corpus.shown[number], corpus.groups[number])
            found[f"row {row.id}"] = Pair(question, right, f"row {row.group}"), number
    for number, passage in enumerate(corpus.passages):
        heading = corpus.headings[number]
        if not heading:
            left_out["no_heading"] += 1
        elif heading in asked:
            left_out["held_out_question"] += 1
        else:
            right = contrastive.Passage(passage.text, corpus.groups[number])
            found[f"heading {passage.id}"] = Pair(heading, right, right.group), number
    # Drawn by name: the order of the file does not decide who is left out.
    names = sorted(found, key=lambda name: share(seed, f"pair {name}"))
    left_out["more_than_needed"] = max(0, len(names) - most)
    chosen = [found[name] for name in names[:most]]
    pairs = _mined(chosen, corpus, index, settings, seed, listen, vectors)
    return StudyPairs(pairs=tuple(pairs), left_out={k: n for k, n in left_out.items() if n})


class _Corpus:
    """The passages of the documents, and how many hold each word."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.passages = passages_of(documents)
        self.shown = [p.shown for p in self.passages]
        headings = {d.id: d.heading for d in documents}
        sections = [p.id.rpartition("#")[0] for p in self.passages]
        self.headings = [headings[s] for s in sections]
        coarse = len({p.group for p in self.passages}) < FEWEST_GROUPS
        self.groups = [
            s if coarse else p.group for s, p in zip(sections, self.passages, strict=True)
        ]
        self.words = [frozenset(words(text)) for text in self.shown]
        self.holding = Counter(w for own in self.words for w in own)

    def answering(self, row: Row, index: Index) -> int | None:
        """The passage from which a training row seems to be answered."""
        question, answer = solved(row)  # type: ignore[arg-type]
        most = max(1, RARE_SHARE * len(self.passages))
        telling = {w for w in words(answer) if len(w) > 2 or w.isdigit()}
        own = telling - set(words(question_of(row)))
        rare = sorted((self.holding[w], w) for w in own if 0 < self.holding[w] <= most)
        wanted = {w for _, w in rare[:RAREST]}
        if not wanted:
            return None
        ranked = index.search(f"{question} {answer}")[:SEARCHED]
        return next((n for n in ranked if wanted <= self.words[n]), None)


class _Asked:
    """Whether a text holds one of the hidden questions, word by word."""

    def __init__(self, questions: Iterable[str]) -> None:
        self.known = {asked for q in questions if (asked := tuple(words(q)))}
        self.lengths = {len(asked) for asked in self.known}

    def __contains__(self, text: str) -> bool:
        found = tuple(words(text))
        return any(
            found[start : start + length] in self.known
            for length in self.lengths
            for start in range(len(found) - length + 1)
        )


def _mined(
    chosen: Sequence[tuple[Pair, int]],
    corpus: _Corpus,
    index: Index,
    settings: ContrastiveSettings,
    seed: int,
    listen: Listener,
    vectors: Path | None,
) -> list[Pair]:
    """The pairs with hard negatives of both searches, each in the form of its own passage."""
    encoder = default_encoder()
    passages_NE = encoder.encode(corpus.shown, listen, cache=vectors)
    queries_BE = encoder.encode([p.query for p, _ in chosen], listen, cache=vectors)
    done = []
    for place, (pair, gold) in enumerate(chosen):
        similar_N = passages_NE @ queries_BE[place]
        near = np.argsort(-similar_N, kind="stable")[: settings.last_rank]
        rankings = [index.search(pair.query), [int(n) for n in near]]
        draw = generator(seed, "hard negatives", place)
        numbers = contrastive.hard_negatives(
            rankings, similar_N, gold, corpus.groups, settings, draw
        )
        titled = pair.passage.text == corpus.shown[gold]
        texts = corpus.shown if titled else [p.text for p in corpus.passages]
        hard = [contrastive.Passage(texts[n], corpus.groups[n]) for n in numbers]
        # More than are used: some may be right for another row of the batch.
        done.append(replace(pair, negatives=tuple(hard[: 4 * settings.negatives])))
        listen(Step("mine negatives", place + 1, len(chosen)))
    return done
