"""Wrong labels, of texts or of multiple choice with always the same choices. Nothing is dropped.

Each row's probabilities come from a logistic regression on the rows of other groups, K-fold;
confident learning finds those whose label they contradict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from domainwright.core.errors import CapabilityError, DataError
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Choice, Row
from domainwright.core.seeds import generator
from domainwright.curate.content import question
from domainwright.curate.labelled import as_choices, label_set
from domainwright.curate.selection.relevance import bag
from domainwright.maths.confident_learning import doubts

FOLDS = 5
PENALTY = 1.0
"""On the squared weights of the regression, against a sum over the rows."""
BUCKETS = 2048
"""Of hashed words, where there is no encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A row whose label is doubted."""

    id: str
    file: str
    line: int
    given: str
    likelier: str
    margin: float
    """Probability of the given label less that of the likeliest other one; -1 is the surest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelErrors:
    """What is to be looked at, and how many wrong labels there are by estimate."""

    rows: int
    labels: list[str]
    counts: list[int]
    """Rows of each label."""
    agree: float
    """Share of the rows whose label the other groups' rows foretell. Near that of the largest
    label, the regression knows nothing, and neither does this list."""
    wrong_share: float
    """Estimated share of wrong labels."""
    joint: list[list[float]]
    """Estimated rows by given label and true label."""
    suspects: list[Suspect]
    """The most suspect first."""
    reads: str
    """What the regression sees: sentence vectors or hashed words."""


def label_errors(
    rows: Sequence[Row],
    *,
    seed: int = 0,
    encode: Callable[[Sequence[str]], np.ndarray] | None = None,
    listen: Listener = quiet,
) -> LabelErrors:
    """Find labels that contradict what the other rows teach.

    Args:
        encode: texts -> vectors (N, D). None: the shipped sentence encoder, or hashed words where
            it is not installed.

    Raises:
        DataError: rows of another kind, with several sets of choices, or of one group.
    """
    labels, choices = _labels(as_choices(rows, label_set(rows)))
    label_N = np.array([labels.index(row.choices[row.answer]) for row in choices])
    fold_N = _folds([row.group for row in choices], seed)
    read, vectors_ND = _vectors([question(row) for row in choices], encode, listen)
    odds_NK = _odds(vectors_ND, label_N, fold_N, len(labels), listen)
    found = doubts(label_N, odds_NK)
    return LabelErrors(
        rows=len(choices),
        labels=labels,
        counts=np.bincount(label_N, minlength=len(labels)).tolist(),
        agree=float((odds_NK.argmax(1) == label_N).mean()),
        wrong_share=found.wrong_share,
        joint=found.calibrated_KK.tolist(),
        suspects=[
            Suspect(
                id=choices[n].id,
                file=choices[n].file,
                line=choices[n].line,
                given=labels[label_N[n]],
                likelier=labels[found.guess_N[n]],
                margin=float(found.margin_N[n]),
            )
            for n in found.suspects
        ],
        reads=read,
    )


def _labels(rows: Sequence[Row]) -> tuple[list[str], list[Choice]]:
    choices = [row for row in rows if isinstance(row, Choice)]
    sets = {tuple(sorted(row.choices)) for row in choices}
    if len(choices) < len(rows) or len(sets) != 1:
        found = f"{len(sets)} sets of choices" if len(choices) == len(rows) else "other rows"
        raise DataError(
            f"The file holds {found}, and labels are compared between rows.",
            "give texts with a label, or multiple choice whose choices are always the same, in any "
            "order.",
        )
    if len({row.choices[row.answer] for row in choices}) < 2:
        raise DataError(
            f"All {len(choices)} rows have the label {choices[0].choices[choices[0].answer]!r}.",
            "give rows with at least two labels.",
        )
    return list(sets.pop()), choices


def _folds(groups: Sequence[str], seed: int) -> np.ndarray:
    """Fold of each row: whole groups, each into the smallest fold so far."""
    members: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    if len(members) < 2:
        raise DataError(
            "All rows are of one group, and a row is judged by the rows of other groups.",
            "give rows of several groups, or leave the column `group` out.",
        )
    order = generator(seed, "label folds").permutation(len(members)).tolist()
    parts = list(members.values())
    sizes, fold_N = [0] * min(FOLDS, len(parts)), np.zeros(len(groups), dtype=int)
    for part in sorted((parts[n] for n in order), key=len, reverse=True):
        fold = sizes.index(min(sizes))
        fold_N[part] = fold
        sizes[fold] += len(part)
    return fold_N


def _vectors(
    texts: Sequence[str], encode: Callable[[Sequence[str]], np.ndarray] | None, listen: Listener
) -> tuple[str, np.ndarray]:
    if encode is not None:
        return "given vectors", encode(texts)
    # Here: curation without vectors loads no torch.
    from domainwright.models.encoder import default_encoder

    try:
        return "sentence vectors", default_encoder().encode(texts, listen)
    except CapabilityError:
        return "hashed words", hashed_words(texts)


def hashed_words(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors (N, BUCKETS) of log(1 + count) of hashed words and pairs of words."""
    found = [np.bincount(bag(text) % BUCKETS, minlength=BUCKETS) for text in texts]
    counts_NB = np.log1p(np.array(found, dtype=np.float32))
    length_N1 = np.linalg.norm(counts_NB, axis=1, keepdims=True)
    vectors_NB: np.ndarray = counts_NB / np.maximum(length_N1, 1e-12)
    return vectors_NB


def _odds(
    vectors_ND: np.ndarray, label_N: np.ndarray, fold_N: np.ndarray, labels: int, listen: Listener
) -> np.ndarray:
    """Probabilities (N, K) of every row's labels by a regression on the other folds."""
    import torch

    from domainwright.maths.logistic import fit, probabilities

    x_ND, y_N = torch.from_numpy(np.asarray(vectors_ND)), torch.from_numpy(label_N)
    odds_NK, folds = np.zeros((len(label_N), labels)), int(fold_N.max()) + 1
    for fold in range(folds):
        listen(Step("judge labels", fold, folds))
        out = torch.from_numpy(fold_N == fold)
        found = fit(x_ND[~out], y_N[~out], labels, PENALTY)
        odds_NK[out.numpy()] = probabilities(x_ND[out], *found).numpy()
    listen(Step("judge labels", folds, folds))
    return odds_NK
