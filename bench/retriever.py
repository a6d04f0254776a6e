"""What tuning the sentence encoder brings to retrieval: nDCG@10 on held-out queries.

    python -m bench.retriever [--domains medical,legal] [--documents 400] [--pairs 512] [--anyway]

The encoder is tuned as `rag_tuned` does it: on pairs that are guessed from training rows and
headings, never on which passage a query wants. Rows of the groups whose queries are scored are
held out; their documents' headings are not: a study has its documents too. Intervals are of
paired differences, whole groups drawn. One JSON line for each domain goes to bench/history.jsonl;
without ../shared there is nothing to measure.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench._report import add_options, machine_facts, note, publish, refuse_when_busy
from domainwright.core.records import Chat, Document, Message
from domainwright.core.seeds import share
from domainwright.maths.bootstrap import interval
from domainwright.maths.ranking import ndcg
from domainwright.models.encoder import Encoder, default_encoder
from domainwright.prompting._index import Index, passages_of
from domainwright.studies._pairs import study_pairs
from domainwright.studies._retriever import SETTINGS
from domainwright.train.contrastive import tune

DATA = Path(__file__).parents[2] / "shared" / "data"
BOTH = ("lexical", "dense")
HELD_OUT = 0.5
"""Share of the groups whose queries are scored."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domains", default="medical,legal")
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--kinds", default="full,lora")
    add_options(parser)
    options = parser.parse_args()
    load = refuse_when_busy(options)
    for domain in options.domains.split(","):
        if not (DATA / domain / "retrieval_docs.jsonl").is_file():
            note(f"{domain}: ../shared/data/{domain} is absent, so it is left out.")
            continue
        line = measured(domain, options.documents, options.pairs, options.kinds.split(","))
        publish({"bench": "retriever", **line, **machine_facts("torch", "transformers"), **load})
    return 0


def measured(domain: str, most: int, pairs: int, kinds: list[str]) -> dict[str, Any]:
    """One domain: every retriever on the same held-out queries."""
    documents, queries = _chosen(domain, most)
    held_out = [q for q in queries if _held_out(q["group"])]
    answers = {x["id"]: x for x in _lines(domain, "qa")}
    rows = [_row(q, answers) for q in queries if not _held_out(q["group"])]
    rows = [r for r in rows if r.answer]
    found = study_pairs(rows, documents, [_row(q, answers) for q in held_out], SETTINGS, most=pairs)
    gold = {q["question"]: set(q["relevant"]) for q in queries}
    guessed = [p for p in found.pairs if p.group.startswith("row ")]
    by_group = {d.id: d.group for d in documents}
    right = [any(by_group[i] == p.passage.group for i in gold[p.query]) for p in guessed]
    exact = Encoder(torch.float32)
    encoders: dict[str, Encoder] = {"base": default_encoder()}
    seconds = {}
    for kind in kinds:
        begun = time.perf_counter()
        tuned = tune(exact, found.pairs, replace(SETTINGS, kind=kind), listen=_told)
        seconds[kind] = round(time.perf_counter() - begun, 1)
        changed = exact.changed(tuned.change, kind)
        changed.model.to(encoders["base"].model.dtype)
        encoders[kind] = changed
    with tempfile.TemporaryDirectory() as kept:

        def scored(kinds: Any, encoder: Encoder | None = None) -> np.ndarray:
            return _scores(documents, held_out, kinds, encoder, Path(kept))

        scores = {"bm25": scored(("lexical",))}
        for name, encoder in encoders.items():
            scores[f"dense {name}"] = scored(("dense",), encoder)
            scores[f"hybrid {name}"] = scored(BOTH, encoder)
    groups = [q["group"] for q in held_out]
    note(f"{domain}: {len(documents)} documents, {len(held_out)} held-out queries")
    return {
        "domain": domain,
        "documents": len(documents),
        "queries": len(held_out),
        "rows": len(rows),
        "pairs": len(found.pairs),
        "pairs_of_rows": len(guessed),
        "right_group": round(float(np.mean(right)), 3) if right else None,
        "left_out": found.left_out,
        "tuning_seconds": seconds,
        "ndcg_10": {name: _told_score(name, x, scores, groups) for name, x in scores.items()},
    }


def _told_score(
    name: str, own: np.ndarray, scores: dict[str, np.ndarray], groups: list[str]
) -> dict[str, Any]:
    """The score, and for a tuned encoder its gain over the base one in the same search."""
    told: dict[str, Any] = {"mean": round(float(own.mean()), 4)}
    search, _, encoder = name.partition(" ")
    if encoder not in ("", "base"):
        gain = interval(own - scores[f"{search} base"], groups)
        told["gain"] = [round(x, 4) for x in (gain.mean, gain.low, gain.high)]
    shown = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*told["gain"]) if "gain" in told else ""
    note(f"  {name:<12} {told['mean']:.3f}  {shown}")
    return told


def _scores(
    documents: list[Document],
    queries: list[dict[str, Any]],
    kinds: Any,
    encoder: Encoder | None,
    vectors: Path,
) -> np.ndarray:
    """nDCG@10 of each query; a document stands where its best passage does."""
    passages = passages_of(documents)
    index = Index([p.shown for p in passages], vectors=vectors, kinds=kinds, encoder=encoder)
    numbers = {d.id: n for n, d in enumerate(documents)}
    owner = [numbers[p.id.rpartition("#")[0]] for p in passages]
    found = []
    for query in queries:
        ranked = list(dict.fromkeys(owner[n] for n in index.search(query["question"])))
        found.append(ndcg(ranked, {numbers[i] for i in query["relevant"]}))
    return np.array(found)


def _chosen(domain: str, most: int) -> tuple[list[Document], list[dict[str, Any]]]:
    """Whole groups of documents in a drawn order, and the queries whose documents are all there."""
    lines = sorted(_lines(domain, "retrieval_docs"), key=lambda x: share(0, x["group"]))
    documents = [
        Document(**{k: x[k] for k in ("id", "group", "title", "text")}, file=domain, line=n)
        for n, x in enumerate(lines[:most], 1)
    ]
    known = {d.id for d in documents}
    queries = [q for q in _lines(domain, "retrieval_queries") if known.issuperset(q["relevant"])]
    return documents, queries


def _held_out(group: str) -> bool:
    return share(0, f"held out {group}") < HELD_OUT


def _row(query: dict[str, Any], answers: dict[str, Any]) -> Chat:
    """The training row that a query was made from; without one it has no answer."""
    turns = answers.get(query["qa_id"], {}).get("messages", [{"content": ""}])
    return Chat(
        id=query["id"],
        group=query["group"],
        file="",
        line=0,
        messages=(
            Message("user", query["question"]),
            Message("assistant", turns[-1]["content"]),
        ),
    )


def _lines(domain: str, name: str) -> list[dict[str, Any]]:
    text = (DATA / domain / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _told(step: Any) -> None:
    if step.stage == "tune encoder":
        note(f"  step {step.done} of {step.total}: loss {step.facts['loss']}")


if __name__ == "__main__":
    sys.exit(main())
