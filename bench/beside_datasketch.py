"""Near-duplicates beside datasketch and Rensa: the same rows, turn about; and all of `dw curate`.

    python -m bench.beside_datasketch [--rows 20000] [--pairs 3] [--whole] [--anyway]

All find candidate pairs from 3-grams of words, 160 entries, 40 bands of 4, on texts in memory;
the peers on one core, ours on all. datasketch hashes row by row with `update_batch`, its fastest
way; `--slow` uses `update`, as its manual shows. Of the planted copies (every tenth row again, one
word in twelve exchanged), the share that each finds is in the line: speed without it says nothing.
With --whole, `dw curate` with its default filters on the same rows, from file to dataset.
"""

import argparse
import gc
import json
import random
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench._report import add_options, machine_facts, note, publish, refuse_when_busy, spread
from domainwright.curate._sketch import BAND, BANDS, BINS, RUN_WORDS, candidates, sketched
from domainwright.curate.content import content
from domainwright.curate.pipeline import Wish, curate
from domainwright.curate.read import read

DATA = Path(__file__).parents[2] / "shared" / "data"
FILES = ("medical/qa", "science/qa", "legal/qa", "finance/qa", "general/instructions")
Pairs = set[tuple[int, int]]
Found = Pairs | NDArray[np.int64]


def rows(count: int) -> tuple[list[str], Pairs]:
    """(texts, planted pairs). Every tenth text stands again, at the end, a little changed."""
    texts = [content(row) for name in FILES for row in read(DATA / f"{name}.jsonl").rows]
    draw, planted = random.Random(0), set()
    draw.shuffle(texts)
    texts = [text for text in texts if len(text.split()) >= 24][: round(count / 1.1)]
    for n in range(0, len(texts), 10):
        words = texts[n].split(" ")
        for place in draw.sample(range(len(words)), len(words) // 12):
            words[place] = "otherwise"
        planted.add((n, len(texts)))
        texts.append(" ".join(words))
    return texts, planted


def ours(texts: list[str]) -> Found:
    return candidates(sketched(texts))


def grams(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return [" ".join(words[n : n + RUN_WORDS]) for n in range(max(1, len(words) - RUN_WORDS + 1))]


def datasketch(texts: list[str], slow: bool) -> Pairs:
    from datasketch import MinHash, MinHashLSH

    index, found = MinHashLSH(num_perm=BINS, params=(BANDS, BAND)), set()
    for n, text in enumerate(texts):
        sketch, data = MinHash(num_perm=BINS, seed=1), [gram.encode() for gram in grams(text)]
        if slow:
            for gram in data:
                sketch.update(gram)
        else:
            sketch.update_batch(data)
        found.update((other, n) for other in index.query(sketch))
        index.insert(n, sketch)
    return found


def rensa(texts: list[str]) -> Pairs:
    from rensa import RMinHash, RMinHashLSH

    index, found = RMinHashLSH(threshold=0.55, num_perm=BINS, num_bands=BANDS), set()
    for n, text in enumerate(texts):
        sketch = RMinHash(num_perm=BINS, seed=1)
        sketch.update(grams(text))
        found.update((other, n) for other in index.query(sketch))
        index.insert(n, sketch)
    return found


def timed(work: Callable[[], Found], planted: Pairs) -> tuple[float, float]:
    """(seconds, share of the planted pairs that were found)."""
    # What the one before has left must not be looked through at the cost of the next.
    gc.collect()
    started = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - started
    pairs = found if isinstance(found, set) else set(map(tuple, found.tolist()))
    return seconds, len(planted & pairs) / len(planted)


def whole(texts: list[str]) -> float:
    """Seconds of `dw curate` from a file of text rows to the dataset."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        with open(file, "w", encoding="utf-8") as out:
            out.writelines(json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(texts))
        started = time.perf_counter()
        curate(Wish(files=(file,)), Path(folder) / "out")
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--slow", action="store_true", help="datasketch with update, not batches")
    parser.add_argument("--whole", action="store_true", help="dw curate on the same rows too")
    add_options(parser)
    options = parser.parse_args()
    busy = refuse_when_busy(options)
    texts, planted = rows(options.rows)
    mib = sum(len(text.encode()) for text in texts) / 2**20
    peers: dict[str, Callable[[], Found]] = {
        "datasketch": lambda: datasketch(texts, options.slow),
        "rensa": lambda: rensa(texts),
    }
    for name, peer in peers.items():
        try:
            peer_runs, own_runs = [], []
            for _ in range(options.pairs):
                own_runs.append(timed(lambda: ours(texts), planted))
                peer_runs.append(timed(peer, planted))
        except ImportError as error:
            note(f"{name} is left out: {error}")
            continue
        seconds = spread([own for own, _ in own_runs])
        publish(
            {
                "bench": f"near-duplicates beside {name}",
                "ratio": spread(
                    [p / o for (p, _), (o, _) in zip(peer_runs, own_runs, strict=True)]
                ),
                "rows": len(texts),
                "mib": round(mib, 1),
                "seconds": seconds,
                "peer_seconds": spread([peer_time for peer_time, _ in peer_runs]),
                "rows_per_min": round(60 * len(texts) / seconds["median"]),
                "planted_found": round(own_runs[0][1], 4),
                "peer_planted_found": round(peer_runs[0][1], 4),
                "slow": options.slow,
                **busy,
                **machine_facts("numpy", name),
            }
        )
    if options.whole:
        runs = [whole(texts) for _ in range(options.pairs)]
        publish(
            {
                "bench": "dw curate, file to dataset",
                "rows": len(texts),
                "mib": round(mib, 1),
                "seconds": spread(runs),
                "rows_per_min": round(60 * len(texts) / sorted(runs)[len(runs) // 2]),
                "mib_per_s": round(mib / sorted(runs)[len(runs) // 2], 2),
                **busy,
                **machine_facts("numpy", "polars", "pyarrow"),
            }
        )


if __name__ == "__main__":
    main()
