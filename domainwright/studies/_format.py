"""How a number is written, in the terminal and in the report alike.

Plain ASCII: a terminal that cannot show a true minus sign must not end a study in an
error. `typeset` gives the report its minus signs and keeps a number on one line.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from domainwright.maths.bootstrap import Interval
from domainwright.studies.records import Difference

MISSING = "n/a"
MIB = 1024 * 1024


def typeset(text: str) -> str:
    """True minus signs and no line break, for HTML.

    >>> typeset("-0.5 pp")
    '−0.5\\xa0pp'
    """
    return text.replace("-", "\u2212").replace(" ", "\u00a0")


def prose(text: str) -> str:
    """The same for the numbers of a sentence; its words keep their hyphens and may be broken.

    >>> prose("few-shot: -0.5 pp, 95 %")
    'few-shot: −0.5 pp, 95\\xa0%'
    """
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", text).replace(" %", "\u00a0%")


def fixed(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """A number with `decimals` places, thousands grouped, and never a negative zero.

    >>> fixed(-0.001, 2), fixed(0.34, 2, sign=True), fixed(float("nan"), 1)
    ('0.00', '+0.34', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        return text.lstrip("-")
    return f"+{text}" if sign and value > 0 else text


def places(values: Iterable[float], least: int) -> int:
    """Decimals with which no value that differs from zero is written as zero; `least` + 2 at most.

    An interval that ends at 0.004 must not be printed as if it reached zero.

    >>> places([0.3, 0.004], 2), places([0.0, 0.3], 2)
    (3, 2)
    """
    decimals = least
    while decimals < least + 2 and any(v and abs(v) < 0.5 * 10**-decimals for v in values):
        decimals += 1
    return decimals


def exact(values: Iterable[float], least: int = 0) -> int:
    """Decimals that write every one of these round values in full, for the ticks of an axis.

    >>> exact([0.0, 0.05]), exact([10.0, 20.0])
    (2, 0)
    """
    values = list(values)
    decimals = least
    while decimals < 9 and any(abs(v - round(v, decimals)) > 1e-9 * abs(v) for v in values):
        decimals += 1
    return decimals


def triple(
    mean: float, low: float, high: float, *, least: int, sign: bool = False, suffix: str = ""
) -> str:
    """A mean with its interval.

    >>> triple(0.34, 0.29, 0.39, least=2, sign=True)
    '+0.34 [+0.29, +0.39]'
    """
    decimals = places((low, high), least)
    m, a, b = (fixed(v, decimals, sign=sign) for v in (mean, low, high))
    return f"{m}{suffix} [{a}, {b}]" if m != MISSING else MISSING


@dataclass(frozen=True, slots=True)
class Unit:
    """How one kind of score is shown."""

    label: str
    factor: float
    """From the stored score to the number shown; below 0 where lower is better."""
    decimals: int
    suffix: str = ""
    change_suffix: str = ""
    change_decimals: int | None = None

    @property
    def heading(self) -> str:
        """The label as words begin; a metric of lm-eval behind a filter is a name, not words.

        >>> Unit("token F1", 1, 2).heading, Unit("exact_match,strict", 1, 3).heading
        ('Token F1', 'exact_match,strict')
        """
        return self.label if "," in self.label else self.label[0].upper() + self.label[1:]

    @property
    def lower_is_better(self) -> bool:
        return self.factor < 0

    @property
    def better(self) -> str:
        return "lower is better" if self.lower_is_better else "higher is better"

    def level(self, score: float | None) -> str:
        """One score: "0.52", "52.0 %", "1.02 bits per byte"."""
        if score is None or not math.isfinite(score):
            return MISSING
        return fixed(score * self.factor, self.decimals) + self.suffix

    def levels(self, score: Interval | None) -> str:
        """A score with its interval: "0.52 [0.47, 0.57]", without the name of the unit."""
        if score is None:
            return MISSING
        low, high = sorted((score.low * self.factor, score.high * self.factor))
        suffix = " %" if self.suffix == " %" else ""
        return triple(score.mean * self.factor, low, high, least=self.decimals, suffix=suffix)

    def change(self, difference: float | None) -> str:
        """A difference of scores: "+0.34", "+12.5 pp"; in bits per byte a gain is negative."""
        if difference is None or not math.isfinite(difference):
            return MISSING
        value = difference * self.factor
        return fixed(value, places((value,), self._least), sign=True) + self.change_suffix

    def ticks(self, differences: Sequence[float]) -> list[str]:
        """Labels of an axis of differences, without the unit."""
        values = [d * self.factor for d in differences]
        decimals = exact(values)
        return [fixed(v, decimals, sign=True) for v in values]

    @property
    def axis(self) -> str:
        """What such an axis is called."""
        return self.label + (f" in {self.change_suffix.strip()}" if self.change_suffix else "")

    @property
    def _least(self) -> int:
        return self.decimals if self.change_decimals is None else self.change_decimals

    def changes(self, difference: Interval | Difference | None) -> str:
        if difference is None:
            return MISSING
        low, high = sorted((difference.low * self.factor, difference.high * self.factor))
        return triple(
            difference.mean * self.factor,
            low,
            high,
            least=self._least,
            sign=True,
            suffix=self.change_suffix,
        )

    def size(self, difference: float | None) -> str:
        """How large a difference is, without its direction: "0.06", "6.0 pp"."""
        return self.change(None if difference is None else abs(difference)).lstrip("+-")


UNITS = {
    "token_f1": Unit("token F1", 1, 2),
    "rouge_l": Unit("ROUGE-L", 1, 2),
    "exact_match": Unit("exact match", 1, 2),
    "entity_f1": Unit("entity F1 (mean over rows)", 1, 2),
    "accuracy": Unit("accuracy", 100, 1, " %", " pp"),
    "accuracy_norm": Unit("accuracy", 100, 1, " %", " pp"),
    "balanced_accuracy": Unit("balanced accuracy", 100, 1, " %", " pp"),
    "acc": Unit("acc", 100, 1, " %", " pp"),
    "acc_norm": Unit("acc_norm", 100, 1, " %", " pp"),
    "negative_bits_per_byte": Unit("bits per byte", -1, 2, " bits per byte", "", 3),
}
SHARE = UNITS["accuracy"]
"""General choices are counted as accuracies whatever the study is decided by."""


def unit(score: str) -> Unit:
    """How the score called `score` is shown."""
    # lm-eval's metric behind a filter keeps the name by which lm-eval prints it.
    return UNITS.get(score) or Unit(score if "," in score else score.replace("_", " "), 1, 3)


def measure(name: str) -> str:
    """What a further measure is called."""
    known = {
        "answer_loss": "loss on the reference (nats per token)",
        "accuracy_norm": "accuracy, choices weighed by their length",
    }
    return known.get(name) or unit(name).label


def loss_change(change: Interval) -> str:
    """How far losses lie apart: "0.123 [0.101, 0.145] nats per token"."""
    return f"{triple(change.mean, change.low, change.high, least=3)} nats per token"


def nats(change: Interval) -> str:
    """Forgetting on general text, in nats per token; above zero is forgotten."""
    return triple(change.mean, change.low, change.high, least=3, sign=True)


def p_value(p: float | None) -> str:
    """A p-value.

    >>> p_value(0.0003), p_value(0.0421), p_value(0.3)
    ('< 0.001', '0.042', '0.30')
    """
    if p is None or not math.isfinite(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def seconds(value: float | None) -> str:
    """Two or three figures: "0.034", "0.80", "12.3", "310"."""
    if value is None or not math.isfinite(value):
        return MISSING
    return fixed(value, 3 if value < 0.095 else 2 if value < 10 else 1 if value < 100 else 0)


def minutes(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    return fixed(value, 1 if value < 100 else 0)


def duration(value: float) -> str:
    """Seconds as people say them.

    >>> duration(40), duration(800), duration(9000)
    ('40 s', '13 min', '2.5 h')
    """
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:,.1f} h"


def gigabytes(mib: float | None) -> str:
    """MiB as GB of 10^9 bytes, the unit of the budget.

    >>> gigabytes(2210)
    '2.3 GB'
    """
    return MISSING if mib is None else f"{mib * MIB / 1e9:.1f} GB"


def count(value: float | None) -> str:
    """A whole number with thousands grouped."""
    return fixed(value, 0)


def tokens(value: float | None) -> str:
    """Mean tokens per answer; below ten a tenth matters."""
    return fixed(value, 1 if value is not None and 0 < value < 10 else 0)


def parameters(value: int | None) -> str:
    """A count of parameters in short.

    >>> parameters(4884480), parameters(134515008), parameters(512)
    ('4.88 M', '135 M', '512')
    """
    if value is None:
        return MISSING
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            short = value / size
            return f"{short:.{2 if short < 10 else 1 if short < 100 else 0}f} {letter}"
    return str(value)


def money(value: float | None, currency: str) -> str:
    """An amount with enough digits to be compared: cents, and three digits below one.

    >>> money(1234.5, "USD"), money(0.01234, "USD"), money(1e-9, "USD")
    ('1,234.50 USD', '0.0123 USD', '0.00 USD')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    decimals = 2
    while decimals < 6 and 0 < abs(value) < 0.995 and abs(value) < 10 ** (2 - decimals):
        decimals += 1
    if abs(value) < 0.5 * 10**-decimals:
        decimals = 2
    return f"{fixed(value, decimals)} {currency}"


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage; 100 % only where it is all of them.

    >>> percent(1.0), percent(0.9996)
    ('100 %', '> 99.9 %')
    """
    if share is None or not math.isfinite(share):
        return MISSING
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return "100 %" if share == 1 else f"{100 * share:.1f} %"


def short(digest: str) -> str:
    """The first twelve characters of a hash."""
    return digest[:12]
