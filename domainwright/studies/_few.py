"""When rows are few: whether a study asks a test part, or every row in turn.

A test part of 20 items shows no difference below 24 points in 100 (`significance.detectable`), and
from 10 development rows no state of a run can be chosen. Where the shares of the study would leave
fewer independent groups than that, no row is spared: the rows are cut into folds, every strategy
answers each fold after learning from the others, and so all rows are asked out of fold.

More than `MOST_ROWS` rows are split all the same, however few their groups: five trainings more
cost too much there.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from domainwright.core.errors import ConfigError
from domainwright.studies._names import is_gated

if TYPE_CHECKING:
    from domainwright.studies.study import StudySettings

FEWEST_TEST, FEWEST_DEVELOPMENT = 20, 10
"""Groups of which `auto` splits: with the default shares of 0.2 and 0.1 it takes about 100."""
MOST_ROWS = 500
FOLDS = 5
"""Each model learns from four fifths of the rows; ten folds cost twice as much for nine tenths."""


def check_folds(study: "StudySettings") -> None:
    """Refuse what folds cannot serve.

    Raises:
        ConfigError: fewer than two folds, a test part beside them, or what needs a split.
    """
    folds, data = study.data.folds, study.data
    if folds is None or folds == "auto":
        return
    if folds < 2:
        raise ConfigError(
            f"data.folds is {folds}.", "give a whole number from 2, such as 5, or null for a split."
        )
    if data.test or data.split_by_date or data.task:
        other = "data.test" if data.test else "data.task" if data.task else "data.split_by_date"
        raise ConfigError(
            f"data.folds and {other} are both set, and each says which rows are asked.",
            "leave one of the two out.",
        )
    if needs := needs_split(study):
        raise ConfigError(
            f"data.folds is {folds}, and {needs} needs rows that no fold is trained on.",
            "leave one of the two out, or set `data: {folds: null}`.",
        )


def folds_for(study: "StudySettings", rows: int, independent: Callable[[], int]) -> int:
    """Folds of the study; 0: it is split.

    Args:
        independent: counts the groups, near-duplicates tied; asked only where it matters.
    """
    data, wanted = study.data, study.data.folds
    if wanted != "auto":
        return wanted or 0
    given = data.test or data.task or data.development or data.split_by_date
    if given or needs_split(study) or rows > MOST_ROWS or (groups := independent()) < 2:
        return 0
    test, development = data.test_share * groups, data.development_share * groups
    few = round(test) < FEWEST_TEST or round(development) < FEWEST_DEVELOPMENT
    return min(FOLDS, groups) if few else 0


def needs_split(study: "StudySettings") -> str | None:
    """The setting that asks for development rows or for one test part; None: there is none."""
    data, evaluate = study.data, study.evaluate
    gated = [name for name in study.strategies if is_gated(name)]
    asked = {
        f"the strategy {gated[0]}" if gated else "": bool(gated),
        "evaluate.learning_curve": evaluate.learning_curve,
        "evaluate.transfer": evaluate.transfer,
        "evaluate.sequence": bool(evaluate.sequence),
        "data.select: influence": data.select is not None and data.select.method == "influence",
        "the ablation of data.augment": any(way.ablation for way in data.augment),
        "data.leaks: keep": data.leaks == "keep",
        "train.patience": study.train.patience is not None,
    }
    return next((name for name, there in asked.items() if there), None)
