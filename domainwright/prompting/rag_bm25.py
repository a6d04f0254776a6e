"""Passages found by their words alone: exact names, numbers and terms, and no vectors to make."""

from domainwright.prompting import PROMPTINGS
from domainwright.prompting.rag import Rag


@PROMPTINGS.register
class RagBm25(Rag):
    summary = "Passages found by their words (BM25), quoted ahead of the question."
    kinds = ("lexical",)
