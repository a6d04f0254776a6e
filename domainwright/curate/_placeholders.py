"""Answers such as "N/A" that say only: nobody has filled this in."""

from domainwright.core.records import Chat, Row, SetAside

PLACEHOLDERS = {"-", "--", "---", "–", "—", "n/a", "#n/a", "...", "…", "tbd", "todo"}
RARE_SHARE = 0.05
"""Above this share of the rows "N/A" is a label that the file teaches, not a gap in it."""


def without_placeholders(rows: list[Row]) -> tuple[list[Row], list[SetAside]]:
    """(rows kept, rows set aside as "empty_answer")."""
    empty = [
        row for row in rows if isinstance(row, Chat) and row.answer.strip().lower() in PLACEHOLDERS
    ]
    if not empty or len(empty) > RARE_SHARE * len(rows):
        return rows, []
    ids = {row.id for row in empty}
    aside = [
        SetAside.of(row, "empty_answer", f"the answer {row.answer.strip()!r} is a placeholder")
        for row in empty
    ]
    return [row for row in rows if row.id not in ids], aside
