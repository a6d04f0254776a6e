"""The study's own base as a writer of rows: greedy replies, kept on the disk.

A study that is taken up again finds what was written, and writes the same rows.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from domainwright.core.artifacts import sha256_json, write_json
from domainwright.core.progress import Listener
from domainwright.core.records import Message
from domainwright.infer.generate import answer
from domainwright.models.base import Base

NEW_TOKENS = 160
"""Longest reply."""


class BaseWriter:
    """Writes with a base.

    Args:
        base: loads it; called when something is to be written that was not written before.
        name: of the base, for the rows' provenance.
        folder: where replies are kept.
    """

    def __init__(self, base: Callable[[], Base], name: str, folder: Path, listen: Listener) -> None:
        self.base, self.name, self.folder, self.listen = base, name, folder, listen

    def write(self, prompts: Sequence[str]) -> list[str]:
        """One reply per prompt; "" for a prompt that does not fit into the base's context."""
        if not prompts:
            return []
        base = self.base()
        file = self.folder / f"written-{sha256_json([base.sha256, str(base.dtype)])[:24]}.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        asked = {p: base.template.prompt([Message("user", p)]) for p in prompts if p not in known}
        known |= {p: "" for p, ids in asked.items() if len(ids) + NEW_TOKENS > base.context}
        fits = [prompt for prompt in asked if prompt not in known]
        replies = answer(
            base,
            [asked[prompt] for prompt in fits],
            new_tokens=NEW_TOKENS,
            listen=self.listen,
            stage="write rows",
        )
        known |= {prompt: reply.text for prompt, reply in zip(fits, replies, strict=True)}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, known)
        return [known[prompt] for prompt in prompts]
