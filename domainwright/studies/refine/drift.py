"""Has the domain moved? New questions beside those that the run was trained on.

    vectors   two-sample test of sentence vectors (MMD)
    loss      nats per token of the questions under the untouched base, new minus known, with a
              bootstrap interval over groups

"Moved" is said only where one of the two is significant at LEVEL after Holm's correction for both.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Row
from domainwright.core.seeds import generator, share
from domainwright.curate.dataset import read_dataset
from domainwright.infer.likelihood import Request, score
from domainwright.maths.bootstrap import DRAWS, Interval, by_group
from domainwright.maths.significance import holm
from domainwright.models.base import Base
from domainwright.models.encoder import default_encoder
from domainwright.models.forms import continuation
from domainwright.studies._base import base_of
from domainwright.studies._format import p_value
from domainwright.studies.refine.questions import Question, questions_of, read_questions
from domainwright.studies.refine.records import Drift, Shift
from domainwright.studies.refine.source import study_of
from domainwright.studies.refine.telling import telling
from domainwright.studies.refine.two_sample import mean_difference, mmd

LEVEL = 0.05
MOST = 400
"""Questions of each side that are compared; of more, so many are drawn by seed and id."""
FEWEST = 10
"""With fewer new questions nothing could be significant that is not plain to see."""
WORDS = 6
EXAMPLES = 3


def drift(
    run: str | Path,
    new: str | Path | Sequence[Row],
    *,
    listen: Listener = quiet,
) -> Drift:
    """Compare new questions with the training questions of a run.

    Args:
        run: folder of `decide` or `train_method`.
        new: a file with a question, prompt, text or messages in each record, or rows.

    Raises:
        DataError: no finished run, or fewer than FEWEST new questions.
    """
    run = Path(run)
    study, verdict = study_of(run)
    if isinstance(new, str | Path):
        fresh, aside = read_questions(Path(new))
    else:
        fresh, aside = questions_of(new), Counter[str]()
    if len(fresh) < FEWEST:
        raise DataError(
            f"There are {len(fresh)} new questions.", f"collect {FEWEST} or more, then ask again."
        )
    own = [row for row in read_dataset(run / "dataset").train if row.provenance is None]
    base = base_of(study)
    if verdict is not None and verdict.base["sha256"] != base.sha256:
        raise DataError(
            f"The base {study.base!r} is not the one that the study in {run} was decided on "
            f"({base.sha256[:12]}…, not {verdict.base['sha256'][:12]}…).",
            "restore the base, or run the study again.",
        )
    known, asked = _drawn(questions_of(own), study.seed), _drawn(fresh, study.seed)
    return compare(base, known, asked, study.seed, dict(aside), run, listen)


def compare(
    base: Base,
    known: Sequence[Question],
    new: Sequence[Question],
    seed: int,
    aside: dict[str, int],
    folder: Path,
    listen: Listener = quiet,
) -> Drift:
    """Both tests, and what is new."""
    listen(Step("vectors", 0, 2))
    encoder = default_encoder()
    known_ND = encoder.encode([q.text for q in known], listen, cache=folder / "vectors")
    new_ND = encoder.encode([q.text for q in new], listen)
    groups = [q.group for q in known], [q.group for q in new]
    found = mmd(known_ND, new_ND, *groups, seed=seed)
    before_N, after_N = (losses(base, side, listen) for side in (known, new))
    harder = mean_difference(before_N, after_N, *groups, seed=seed)
    corrected = holm({"vectors": found.p, "loss": harder.p})
    span = _interval(before_N, after_N, *groups, seed=seed)
    shifts = [
        Shift(what="vectors", statistic=found.statistic, p=found.p, p_holm=corrected["vectors"]),
        Shift(
            what="loss",
            statistic=harder.statistic,
            p=harder.p,
            p_holm=corrected["loss"],
            interval=span,
        ),
    ]
    strange = np.argsort((new_ND @ known_ND.T).max(axis=1), kind="stable")
    moved = any(shift.p_holm < LEVEL for shift in shifts)
    return Drift(
        moved=moved,
        sentence=_sentence(moved, shifts, len(new), len(known)),
        level=LEVEL,
        new=len(new),
        known=len(known),
        shifts=shifts,
        words=telling([q.text for q in new], [[q.text for q in known]], WORDS),
        examples=list(dict.fromkeys(new[n].text for n in strange))[:EXAMPLES],
        set_aside=aside,
    )


def losses(base: Base, asked: Sequence[Question], listen: Listener = quiet) -> np.ndarray:
    """Nats per token of each question, as plain text, under the untouched base (N,)."""
    room = base.context
    requests = []
    for one in asked:
        context, ids = continuation(base.template, "", one.text)
        requests.append(Request(context, ids[:room]))
    with base.hooks.disabled():
        found = score(base, requests, listen=listen, stage="questions")
    return np.array([-x.log_probability / x.tokens for x in found])


def _drawn(asked: Sequence[Question], seed: int) -> list[Question]:
    """At most MOST, whole groups as far as they fit, in an order of seed and names alone."""
    return sorted(asked, key=lambda q: (share(seed, f"drift {q.group}"), q.group))[:MOST]


def _interval(
    before_N: np.ndarray,
    after_N: np.ndarray,
    groups_before: Sequence[str],
    groups_after: Sequence[str],
    *,
    seed: int,
) -> Interval:
    """Of the difference of two means, each side's groups drawn anew; percentiles."""
    means = []
    for name, values_N, groups in (
        ("known", before_N, groups_before),
        ("new", after_N, groups_after),
    ):
        sums_G, counts_G = by_group(values_N, groups)
        pick_DG = generator(seed, "drift", name).integers(0, len(sums_G), (DRAWS, len(sums_G)))
        means.append(sums_G[pick_DG].sum(axis=1) / counts_G[pick_DG].sum(axis=1))
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    return Interval(float(after_N.mean() - before_N.mean()), float(low), float(high))


def _sentence(moved: bool, shifts: Sequence[Shift], new: int, known: int) -> str:
    told = ", ".join(f"{shift.what} p = {p_value(shift.p_holm)}" for shift in shifts)
    told = told.replace("= <", "<") + f" after Holm's correction; level {LEVEL}"
    if moved:
        return (
            f"The domain has moved: {new} new questions are not like {known} known ones ({told})."
        )
    return f"No move is shown: {new} new questions cannot be told from {known} known ones ({told})."
