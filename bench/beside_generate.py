"""Answering speed beside transformers' batched `generate`: the same prompts, turn about.

    python -m bench.beside_generate [--questions 200] [--shots 0,3] [--new-tokens 64]
        [--dtypes float32,bfloat16] [--pairs 3]

Medical questions after a system turn and, with shots, the same solved questions for all. The
peer pads on the left, sorts by length, and takes the fastest batch size of a grid, found on
a part of the questions. Both sides run in this process on weights of their own, loaded
before the clock starts, and stop at the same tokens. In float32 no ratio is printed unless
all answers are equal; in bfloat16, where two orders of rounding may part at a near tie, unless
at least as many of ours as of the peer's are float32's answers. One JSON line each goes to
bench/history.jsonl.
"""

import argparse
import json
import sys

import torch

from bench._report import add_options, machine_facts, note, publish, refuse_when_busy, spread
from bench.beside_lm_eval import BASE, DATA, peer_of, timed
from domainwright.core.records import Message
from domainwright.core.seeds import generator
from domainwright.curate.read import read
from domainwright.infer.generate import answer
from domainwright.models.base import load_base
from domainwright.models.float32 import untold
from domainwright.models.template import Template

FILE = DATA / "medical/qa.jsonl"
BATCHES = (8, 16, 32)
SYSTEM = "You are a careful medical assistant. Answer in a few plain sentences."
LONGEST_SHOT = 800
"""Characters of a solved question shown."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--shots", default="0,3")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--pairs", type=int, default=3)
    add_options(parser)
    options = parser.parse_args()
    if not FILE.exists():
        note(f"skipped: {FILE} not found")
        return 0
    load = refuse_when_busy(options)
    failed = False
    for dtype in options.dtypes.split(","):
        sides = _Sides(dtype, options.new_tokens)
        for shots in map(int, options.shots.split(",")):
            prompts = _prompts(sides.base.template, shots, options.questions)
            line = {"bench": "beside_generate", "shots": shots, "new_tokens": options.new_tokens}
            line |= _compare(sides, prompts, options.pairs)
            failed |= "ratio" not in line
            if "ratio" in line:
                publish(line | load)
            else:
                note(json.dumps(line))
    return 5 if failed else 0


def _prompts(template: Template, shots: int, questions: int) -> list[list[int]]:
    rows = read(FILE).rows
    rows = [rows[i] for i in generator(0, "bench answers").permutation(len(rows))]
    shown = [r for r in rows if len(r.question) + len(r.answer) < LONGEST_SHOT][:shots]
    asked = [r for r in rows if r not in shown][:questions]
    head = [Message("system", SYSTEM), *(m for r in shown for m in r.messages)]
    return [template.prompt([*head, *r.messages[:-1]]) for r in asked]


class _Sides:
    """Both engines on the same weights."""

    def __init__(self, dtype: str, new_tokens: int) -> None:
        self.dtype, self.new_tokens = dtype, new_tokens
        self.base = load_base(BASE, dtype=dtype)
        self.model = peer_of(self.base)
        self.base.tokenizer.padding_side = "left"

    def ours(self, prompts: list[list[int]]) -> list[list[int]]:
        return [a.ids for a in answer(self.base, prompts, new_tokens=self.new_tokens)]

    @untold()
    def theirs(self, prompts: list[list[int]], batch: int) -> list[list[int]]:
        stops = self.base.template.stops
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        found: dict[int, list[int]] = {}
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            padded = self.base.tokenizer.pad(
                {"input_ids": [prompts[i] for i in part]}, return_tensors="pt"
            ).to(self.base.device)
            out = self.model.generate(
                **padded,
                max_new_tokens=self.new_tokens,
                do_sample=False,
                eos_token_id=sorted(stops),
                pad_token_id=self.base.tokenizer.pad_token_id,
            )
            for i, ids in zip(part, out[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
                end = next((n for n, token in enumerate(ids) if token in stops), len(ids))
                found[i] = ids[:end]
        return [found[i] for i in range(len(prompts))]


def _compare(sides: _Sides, prompts: list[list[int]], pairs: int) -> dict[str, object]:
    part = prompts[: max(BATCHES)]
    batch = min(BATCHES, key=lambda size: timed(lambda: sides.theirs(part, size))[1])
    sides.ours(prompts[:2])
    ours_s, theirs_s = [], []
    for pair in range(pairs):
        runs = [
            lambda: timed(lambda: sides.ours(prompts)),
            lambda: timed(lambda: sides.theirs(prompts, batch)),
        ]
        results = [run() for run in (runs if pair % 2 == 0 else runs[::-1])]
        (ours, a), (theirs, b) = results if pair % 2 == 0 else results[::-1]
        ours_s.append(a)
        theirs_s.append(b)
    equal = sum(x == y for x, y in zip(ours, theirs, strict=True)) / len(prompts)
    line = {
        "dtype": sides.dtype,
        "questions": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
        "answer_tokens": sum(map(len, ours)),
        "threads": torch.get_num_threads(),
        "equal_answers": round(equal, 4),
    }
    if sides.dtype == "float32":
        refused = equal < 1
    else:
        exact = answer(load_base(BASE, dtype="float32"), prompts, new_tokens=sides.new_tokens)
        right, peer_right = (
            sum(x == a.ids for x, a in zip(side, exact, strict=True)) for side in (ours, theirs)
        )
        line |= {"as_float32": right, "peer_as_float32": peer_right}
        refused = right < peer_right
    if refused:
        return line | {"refused": "no ratio: the two sides' answers differ"}
    return line | {
        "pairs": pairs,
        "ours_s": spread(ours_s),
        "peer_s": spread(theirs_s),
        "peer_batch": batch,
        "ratio": spread([b / a for a, b in zip(ours_s, theirs_s, strict=True)]),
        **machine_facts("torch", "transformers"),
    }


if __name__ == "__main__":
    sys.exit(main())
