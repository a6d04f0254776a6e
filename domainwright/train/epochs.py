"""How often a run reads its rows, and how many steps that makes."""

from domainwright.train.settings import TrainSettings

SHORT_RUN, FULL_RUN = 24, 120
"""Steps up to which few rows are read up to eight times, and up to four."""


def epochs_of(rows: int, settings: TrainSettings) -> float:
    """Passes over the rows: those asked for, else 2, and over few rows up to 4, or 8.

        max(2, min(4, 120 / steps of one pass), min(8, 24 / steps of one pass))

    Two passes over 120 to 170 rows end while every step still brings much: 50 % right for 100
    after four, 88 for 95; eight brought no more (LOG). The best state is kept: too many cost time
    alone.

    >>> [epochs_of(rows, TrainSettings()) for rows in (8, 32, 240, 320, 1000)]
    [8.0, 6.0, 4.0, 3.0, 2.0]

    Source: Muennighoff et al. 2023, arXiv:2305.16264 (rows read up to four times are almost new).
    """
    if settings.epochs is not None:
        return settings.epochs
    once = max(1, rows) / settings.batch
    return max(2.0, min(4.0, FULL_RUN / once), min(8.0, SHORT_RUN / once))


def full_steps(rows: int, settings: TrainSettings) -> int:
    """Steps of all passes over the rows, at least one."""
    return max(1, round(epochs_of(rows, settings) * rows / settings.batch))


def told_steps(steps: int, rows: int, settings: TrainSettings) -> str:
    """How many of all steps a run takes.

    >>> told_steps(60, 320, TrainSettings()), told_steps(120, 320, TrainSettings())
    ('60 of the 120 steps of 3 epochs', 'all 120 steps of 3 epochs')
    """
    full = full_steps(rows, settings)
    share = f"all {full}" if steps == full else f"{steps} of the {full}"
    return f"{share} steps of {round(epochs_of(rows, settings), 2):g} epochs"
