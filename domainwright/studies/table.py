"""The verdict as a table for the terminal: fits eighty columns, breaks no number."""

from textwrap import wrap

from rich.table import Table
from rich.text import Text

from domainwright.studies import _facts
from domainwright.studies import _format as f
from domainwright.studies.records import StrategyResult, Verdict

CHOSEN, UNDECIDED = "*", "?"
WIDTH, NAME = 12, 10
"""Characters for a score and for a strategy's name: what eighty columns leave."""


def verdict_rows(verdict: Verdict) -> tuple[list[str], list[list[str]]]:
    """Heading and one row per strategy, best first, in plain text.

    The recommended strategy carries a star; a difference whose interval contains 0 a "?".
    """
    label = f.unit(verdict.score).label
    heading = [
        "strategy",
        f"{label} [95 %]",
        "against base [95 %]",
        "nats forgot",
        "tokens in+out",
        "s per answer",
        "train min",
        "mem GB",
        "tuned params",
    ]
    return heading, [_row(verdict, r) for r in _facts.in_order(verdict)]


def _row(verdict: Verdict, r: StrategyResult) -> list[str]:
    unit, training = f.unit(verdict.score), r.training
    if r.status != "done" or r.score is None:
        return [r.name, r.status, *[""] * 7]
    star = f" {CHOSEN}" if r.name == verdict.recommendation.strategy else ""
    change = unit.changes(r.difference) if r.difference else ""
    if _facts.decision(r) == "not decided":
        mean, bracket, ends = change.partition(" [")
        change = f"{mean} {UNDECIDED}{bracket}{ends}"
    lost = _facts.forgotten(r)
    forgotten = "same" if _facts.same_weights(r) else f.fixed(lost, 3, sign=True)
    return [
        r.name + star,
        unit.levels(r.score),
        change,
        forgotten + ("!" if _facts.over_limit(verdict, r) else ""),
        f"{f.tokens(r.tokens_in)}+{f.tokens(r.tokens_out)}" if r.tokens_in is not None else "",
        f.seconds(r.seconds_per_answer) if r.seconds_per_answer is not None else "",
        f.minutes(training.minutes) if training else "",
        f.gigabytes(training.peak_rss_mib).removesuffix(" GB") if training else "",
        f.parameters(training.trainable).replace(" ", "") if training else "",
    ]


def render_table(verdict: Verdict) -> Table:
    """The same for rich: intervals under their means, signs explained below the table."""
    heading, rows = verdict_rows(verdict)
    table = Table(
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=_caption(verdict, rows),
        caption_justify="left",
        caption_style="",
        header_style="bold",
    )
    for place, words in enumerate(heading):
        # Text, not str: rich would read the brackets as markup.
        title = Text("\n".join(_lines(words)))
        if place == 0:
            # A fixed width: rich would shrink this column further than it needs to.
            longest = max((len(x) for row in rows for x in _name(row[0]).split("\n")), default=0)
            table.add_column(title, overflow="fold", width=min(NAME, max(8, longest)))
        else:
            table.add_column(title, justify="left" if place < 3 else "right", no_wrap=True)
    for row in rows:
        chosen = row[0].endswith(f" {CHOSEN}")
        table.add_row(*(_cell(words, place, chosen) for place, words in enumerate(row)))
    return table


def _lines(heading: str) -> list[str]:
    """A heading on two lines, "[95 %]" kept whole."""
    if "[" not in heading:
        return heading.rsplit(" ", 1)
    return [x.replace("_%", " %") for x in wrap(heading.replace(" %", "_%"), WIDTH)]


def _name(words: str) -> str:
    """Long names go on two lines, at a plus sign or after an underscore."""
    if len(words) <= NAME:
        return words
    lines = list[str]()
    for part in words.replace("+", "+\n").split("\n"):
        word = part.split(" ")[0]
        cuts = [i + 1 for i in range(NAME) if word[i : i + 1] == "_"] if len(word) > NAME else []
        # The first after which the rest fits: rag_ and few_shot, not rag_few_ and shot.
        cut = next((i for i in cuts if len(word) - i <= NAME), max(cuts, default=0))
        lines += [part[:cut], part[cut:]] if cut else [part]
    return "\n".join(lines)


def _cell(words: str, place: int, chosen: bool) -> Text:
    """Intervals and written tokens on a second, fainter line."""
    style = "bold green" if chosen and place < 3 else ""
    if place == 0:
        return Text(_name(words), style=style)
    sign = "+" if place == 4 else " ["
    first, _, second = words.partition(sign)
    if not second:
        return Text(words, style=style)
    return Text.assemble((first, style), ("\n" + sign.strip() + second, "dim"))


def _caption(verdict: Verdict, rows: list[list[str]]) -> Text:
    lines = []
    if any(row[0].endswith(f" {CHOSEN}") for row in rows):
        lines.append(f"{CHOSEN} recommended")
    if any(f" {UNDECIDED} [" in row[2] for row in rows):
        lines.append(f"{UNDECIDED} not decided: the interval contains 0")
    over = {r.name: why for r in verdict.strategies if (why := _facts.over_limit(verdict, r))}
    if any(x.task is None for own in over.values() for x in own.excesses):
        lines.append(f"! forgets more than the limit of {f.fixed(verdict.max_forgetting, 2)}")
    for name, own in over.items():
        lines += [f"! {name} {x.said}" for x in own.excesses if x.task]
    if always := _facts.constant_answer(verdict):
        lines.append(always)
    if right := _facts.right_by_label(verdict):
        lines.append(right)
    if f.unit(verdict.score).lower_is_better:
        lines.append(f"{f.unit(verdict.score).label}: lower is better")
    return Text("\n" + "\n".join(lines) if lines else "")
