"""Scoring speed beside lm-evaluation-harness: the same multiple-choice requests, turn about.

    python -m bench.beside_lm_eval [--sets pubmedqa,legalbench,mmlu] [--shots 0,5]
        [--dtypes float32,bfloat16] [--questions 60] [--pairs 3]

Both sides get the same token lists and run in this process on weights of their own, loaded
before the clock starts; the peer (HFLM, transformers' default attention) takes the fastest
batch size of a grid, found on a part of the requests. The shots are the same for every
question, as in a fixed few-shot block. The ratio is taken pair by pair. None is printed
unless both sides pick the same answers and no request differs by 1e-3 nats in float32; in
bfloat16, unless ours are on average as near to float32's likelihoods as the peer's.
One JSON line per set, shots and type goes to bench/history.jsonl.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from bench._report import HERE, add_options, machine_facts, note, publish, refuse_when_busy, spread
from domainwright.core.records import Choice
from domainwright.core.seeds import generator
from domainwright.curate.read import read
from domainwright.infer.likelihood import Request, score
from domainwright.models.base import Base, load_base
from domainwright.models.float32 import untold
from domainwright.models.forms import choice_prompt, continuation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
DATA = HERE.parents[1] / "shared" / "data"
SETS = {
    "pubmedqa": "medical/mc_pubmedqa.jsonl",
    "legalbench": "legal/mc_legalbench.jsonl",
    "mmlu": "medical/mc_mmlu.jsonl",
}
BASE = "smollm2-135m"
BATCHES = (1, 4, 8, 16, 32)
MOST_LOGITS = 6 * 2**30
"""Bytes of logits the peer may hold: it keeps those of every position, twice."""
LARGEST_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Exam:
    requests: list[Request]
    rows: list[Choice]

    def correct(self, scores: list[float]) -> list[bool]:
        """Whether each question's most likely choice is right."""
        left = iter(scores)
        picked = [[next(left) for _ in row.choices] for row in self.rows]
        return [p.index(max(p)) == r.answer for p, r in zip(picked, self.rows, strict=True)]

    @property
    def tokens(self) -> int:
        return sum(len(r.context) + len(r.continuation) - 1 for r in self.requests)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--shots", default="0,5")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=3)
    add_options(parser)
    options = parser.parse_args()
    absent = [s for s in options.sets.split(",") if not (DATA / SETS[s]).exists()]
    if absent:
        note(f"skipped: {', '.join(absent)} not found under {DATA}")
    load = refuse_when_busy(options)
    failed = False
    for dtype in options.dtypes.split(","):
        sides = _Sides(dtype)
        for name in [s for s in options.sets.split(",") if s not in absent]:
            for shots in map(int, options.shots.split(",")):
                exam = _exam(sides.base.template, DATA / SETS[name], shots, options.questions)
                line = _compare(sides, exam, options.pairs)
                line = {"bench": "beside_lm_eval", "set": name, "shots": shots, **line}
                failed |= "ratio" not in line
                if "ratio" in line:
                    publish(line | load)
                else:
                    note(json.dumps(line))
    return 5 if failed else 0


def _exam(template: object, path: Path, shots: int, questions: int) -> Exam:
    rows = read(path).rows
    order = generator(0, f"bench {path.name}").permutation(len(rows))
    shown = [rows[i] for i in order[:shots]]
    asked = [rows[i] for i in order[shots : shots + questions]]
    block = "".join(f"{choice_prompt(r)} {r.choices[r.answer]}\n\n" for r in shown)
    requests = [
        Request(*continuation(template, block + choice_prompt(row), " " + choice))
        for row in asked
        for choice in row.choices
    ]
    return Exam(requests, asked)


def peer_of(base: Base) -> "PreTrainedModel":
    """The same weights again, for the peer, which must not meet our hooks."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.source.folder, dtype=base.dtype)
    return model.to(base.device).eval()


class _Sides:
    """Both engines on the same weights."""

    def __init__(self, dtype: str) -> None:
        from lm_eval.models.huggingface import HFLM

        self.dtype = dtype
        self.base = load_base(BASE, dtype=dtype)
        self.peer = HFLM(
            pretrained=peer_of(self.base),
            tokenizer=self.base.tokenizer,
            batch_size=1,
            device=str(self.base.device),
        )

    def ours(self, requests: list[Request]) -> list[float]:
        return [x.log_probability for x in score(self.base, requests)]

    @untold()  # our choice of library holds for the whole process
    def theirs(self, requests: list[Request], batch: int) -> list[float]:
        self.peer.batch_size_per_gpu = batch
        arguments = [(("", ""), r.context, r.continuation) for r in requests]
        return [x for x, _ in self.peer._loglikelihood_tokens(arguments, disable_tqdm=True)]

    def best_batch(self, requests: list[Request]) -> int:
        """The peer's fastest batch size on a part of the requests."""
        part = requests[:: max(1, len(requests) // 12)]
        longest = max(len(r.context) + len(r.continuation) for r in part)
        logits = longest * self.base.vocabulary * torch.finfo(self.base.dtype).bits // 8
        sizes = [b for b in BATCHES if 2 * b * logits <= MOST_LOGITS] or [1]
        if len(sizes) == 1:
            return sizes[0]
        self.theirs(part[:4], 1)
        return min(sizes, key=lambda size: timed(lambda: self.theirs(part, size))[1])


def timed(call: Callable[[], T]) -> tuple[T, float]:
    begun = time.perf_counter()
    return call(), time.perf_counter() - begun


def mean_difference(some: list[float], others: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(some, others, strict=True)) / len(some)


def _compare(sides: _Sides, exam: Exam, pairs: int) -> dict[str, object]:
    batch = sides.best_batch(exam.requests)
    sides.ours(exam.requests[:16])
    ours_s, theirs_s = [], []
    for pair in range(pairs):
        runs = [
            lambda: timed(lambda: sides.ours(exam.requests)),
            lambda: timed(lambda: sides.theirs(exam.requests, batch)),
        ]
        results = [run() for run in (runs if pair % 2 == 0 else runs[::-1])]
        (ours, a), (theirs, b) = results if pair % 2 == 0 else results[::-1]
        ours_s.append(a)
        theirs_s.append(b)
    gaps = [abs(x - y) for x, y in zip(ours, theirs, strict=True)]
    right, peer_right = exam.correct(ours), exam.correct(theirs)
    line = {
        "dtype": sides.dtype,
        "threads": torch.get_num_threads(),
        "questions": len(exam.rows),
        "requests": len(exam.requests),
        "request_tokens": exam.tokens,
        "accuracy": round(sum(right) / len(right), 4),
        "peer_accuracy": round(sum(peer_right) / len(right), 4),
        "largest_difference": round(max(gaps), 6),
        "mean_difference": round(mean_difference(ours, theirs), 6),
    }
    if sides.dtype == "float32":
        equal = max(gaps) < LARGEST_DIFFERENCE and right == peer_right
    else:
        want = [x.log_probability for x in score(load_base(BASE, dtype="float32"), exam.requests)]
        away, peer_away = (mean_difference(side, want) for side in (ours, theirs))
        line |= {"from_float32": round(away, 6), "peer_from_float32": round(peer_away, 6)}
        equal = away <= peer_away
    if not equal:
        return line | {"refused": "no ratio: the two sides' likelihoods differ"}
    ratios = [b / a for a, b in zip(ours_s, theirs_s, strict=True)]
    return line | {
        "pairs": pairs,
        "ours_s": spread(ours_s),
        "peer_s": spread(theirs_s),
        "peer_batch": batch,
        "ratio": spread(ratios),
        **machine_facts("torch", "transformers", "lm_eval"),
    }


if __name__ == "__main__":
    sys.exit(main())
