"""Passages found by their meaning alone: other words for the same thing."""

from domainwright.prompting import PROMPTINGS
from domainwright.prompting.rag import Rag


@PROMPTINGS.register
class RagDense(Rag):
    summary = "Passages found by their meaning (sentence vectors), quoted ahead of the question."
    kinds = ("dense",)
