"""Records that could not be read, under the names that curation uses for its reasons."""

from typing import Any

from domainwright.core.records import SetAside
from domainwright.curate._json_files import CUT
from domainwright.curate._turns import NO_CONTENT

_MALFORMED = frozenset(
    "not_json not_an_object duplicate_key missing_column no_assistant_turn roles_out_of_order"
    " unknown_role wrong_type other_format prompts_differ ambiguous_answer".split()
)
_NAMES = {"too_few_choices": "missing_choices", "empty_choice": "missing_choices"}
READER = "read"
"""Stands where the name of a filter stands for other rows."""


def dropped_unread(found: SetAside) -> dict[str, Any]:
    """One line of dropped.jsonl."""
    reason, detail = _NAMES.get(found.reason, found.reason), found.detail
    if detail == NO_CONTENT:
        # An empty text is an answer that says nothing; null is a record of another shape.
        reason = "malformed_record"
    elif found.reason == "not_json" and CUT in detail:
        reason = "truncated_json"
    elif found.reason in _MALFORMED:
        reason, detail = "malformed_record", f"{found.reason}: {detail}"
    return {
        "file": found.file,
        "line": found.line,
        "id": found.id,
        "filter": READER,
        "reason": reason,
        "detail": detail,
    }
