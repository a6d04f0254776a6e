"""The price book: what an hour, a token, a label and a right answer are worth."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from domainwright.core.config import from_mapping
from domainwright.core.errors import ConfigError
from domainwright.studies._yaml import read_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSettings:
    """What things cost. The defaults are of a laptop and of no work for labels; give your own."""

    currency: str = "USD"
    machine_hour: float = 0.05
    """An hour of the machine that trains and answers: power and wear, or its rent."""
    input_million: float | None = None
    """A million tokens read, where answers are bought by the token. None: machine time counts."""
    output_million: float | None = None
    """A million tokens written."""
    label: float = 0.0
    """One labelled training row: what its author's time costs. 0: the rows are there anyway."""
    storage_gb_month: float = 0.02
    """A gigabyte of adapter or index, a month."""
    questions_month: float = 10_000.0
    """Questions asked in a month."""
    months: float = 12.0
    """For how long the answer is to hold."""
    refreshes_year: float = 4.0
    """How often a year the knowledge changes, so that adapters are trained and indices made
    again."""
    refreshed: float = 0.1
    """Share of the training rows that each change makes anew. In [0, 1]."""
    right: float | None = None
    """What a right answer is worth. None: benefits are not weighed against costs."""
    wrong: float = 0.0
    """What a wrong answer costs."""
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """True label -> label answered -> what that error costs, for rows with labels. A pair that is
    not named costs `wrong`; "other" is an answer that is no label."""

    @property
    def weighed(self) -> bool:
        """Whether benefits are weighed against costs."""
        return self.right is not None or bool(self.errors)

    def value(self, true: str, answered: str) -> float:
        """What one answer brings; below 0: what it costs."""
        if answered == true:
            return self.right or 0.0
        return -self.errors.get(true, {}).get(answered, self.wrong)

    def __post_init__(self) -> None:
        _check_errors(self.errors)
        for name in (f.name for f in fields(self) if f.name not in ("currency", "errors")):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"prices.{name} is {value}.", "give a number from 0.")
        if self.months == 0 or self.refreshed > 1:
            name = "months" if self.months == 0 else "refreshed"
            raise ConfigError(
                f"prices.{name} is {getattr(self, name)}.",
                "give months above 0 and a refreshed share from 0 to 1.",
            )
        if (self.input_million is None) != (self.output_million is None):
            raise ConfigError(
                "prices names one of input_million and output_million.",
                "give both, or neither where answers cost machine time.",
            )


def _check_errors(errors: Mapping[Any, Any]) -> None:
    for true, row in errors.items():
        if not isinstance(row, Mapping):
            raise ConfigError(
                f"prices.errors.{true} is {row!r}.",
                "write {true label: {label answered: cost}}.",
            )
        for answered, cost in row.items():
            strange = next((x for x in (true, answered) if not isinstance(x, str)), None)
            if strange is not None:
                # YAML 1.1 reads yes, no, on and off as true and false, and 1 as a number.
                raise ConfigError(
                    f"prices.errors names {strange!r}, which is no text.",
                    'write the label in quotes, such as "yes".',
                )
            number = isinstance(cost, (int, float)) and not isinstance(cost, bool)
            if not number or not 0 <= cost < float("inf"):
                raise ConfigError(
                    f"prices.errors.{true}.{answered} is {cost!r}.", "give a number from 0."
                )
            if answered == true:
                raise ConfigError(
                    f"prices.errors.{true}.{answered} is no error.", "leave it out; see `right`."
                )


def read_prices(path: Path) -> PriceSettings:
    """A price book from its YAML file.

    Raises:
        ConfigError: no such file, or a setting is unknown or wrong.
    """
    if not path.is_file():
        raise ConfigError(
            f"There is no price book {path}.",
            "give a YAML file with lines such as `machine_hour: 0.60`.",
        )
    return from_mapping(
        PriceSettings, read_yaml(path.read_text(encoding="utf-8"), str(path)), path.name
    )
