"""How well does curation find planted defects, and what does it do to clean data?

    python -m tests.curate_bench            both tables (minutes)
    python -m tests.curate_bench --dirty    planted defects only
    python -m tests.curate_bench --clean    false positives only
    python -m tests.curate_bench --again 1  defects planted by other recipes (`planted_again`)

A defective row counts as found when it was dropped for its defect, or changed for it. A
row that is not listed as defective, or is listed with another defect, and is dropped or
changed for this one is a false positive. Data: ../shared/data (see its README).
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from domainwright.curate.pipeline import Wish, curate
from tests.planted_again import KINDS, plant

DATA = Path(__file__).parents[2] / "shared" / "data"
DOMAINS = ("medical", "legal", "finance", "science")
GOAL, STRICT_GOAL = 0.95, 0.98
STRICT = ("exact_duplicate", "near_duplicate", "conflicting_duplicate", "eval_leakage")


def found_in(folder: Path) -> dict[int, set[str]]:
    """Line -> every reason for which its row was dropped or changed."""
    found = defaultdict[int, set[str]](set)
    for name, field in (("dropped", "reason"), ("changed", "what")):
        for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines():
            entry = json.loads(line)
            found[entry["line"]].add(entry[field])
    return found


def scores(truth: dict[int, dict], found: dict[int, set[str]]) -> dict[str, tuple[int, int, int]]:
    """Defect -> (found rightly, found wrongly, missed)."""
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    for line in truth.keys() | found.keys():
        defect = truth.get(line, {}).get("defect")
        reasons = found.get(line, set())
        for reason in reasons:
            (right if reason == defect else wrong)[reason] += 1
        if defect and defect not in reasons:
            missed[defect] += 1
    names = sorted({*right, *wrong, *missed})
    return {name: (right[name], wrong[name], missed[name]) for name in names}


def dirty(kind: str, planted: Path, data: Path, folder: Path) -> dict[str, tuple[int, int, int]]:
    """Curate one dirty file of the folder `planted` and score it."""
    file = planted / f"{kind}_dirty.jsonl"
    lines = file.with_suffix(".truth.jsonl").read_text("utf-8").splitlines()
    truth = {entry["line"]: entry for entry in map(json.loads, lines)}
    exams = sorted({entry["eval_file"] for entry in truth.values() if "eval_file" in entry})
    wish = Wish(files=(file,), against=tuple(data / name for name in exams))
    curate(wish, folder)
    return scores(truth, found_in(folder))


def print_dirty(planted: Path, data: Path) -> bool:
    reached = True
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            table = dirty(kind, planted, data, Path(folder) / "out")
            print(f"{kind}_dirty.jsonl ({time.monotonic() - started:.1f} s)")
        print(f"  {'defect':<22} {'planted':>8} {'precision':>10} {'recall':>8} {'F1':>7}")
        for name, (right, wrong, missed) in table.items():
            precision, recall = right / max(1, right + wrong), right / max(1, right + missed)
            f1 = 2 * precision * recall / max(1e-9, precision + recall)
            goal = STRICT_GOAL if name in STRICT else GOAL
            reached &= f1 >= goal
            mark = "" if f1 >= goal else f"  below {goal}"
            numbers = f"{right + missed:>8} {precision:>10.3f} {recall:>8.3f} {f1:>7.3f}"
            print(f"  {name:<22} {numbers}{mark}")
        print(flush=True)
    return reached


def clean_files(data: Path) -> list[tuple[str | None, Path]]:
    """(domain, file) of everything one may train on."""
    found: list[tuple[str | None, Path]] = []
    for domain in DOMAINS:
        found += [(domain, path) for path in sorted((data / domain).glob("*.jsonl"))]
    found += [(None, path) for path in sorted((data / "general").glob("*.jsonl"))]
    found.append((None, data / "safety" / "preferences.jsonl"))
    return [(domain, path) for domain, path in found if "retrieval" not in path.name]


def print_clean(data: Path) -> None:
    print(f"{'clean file':<32} {'rows':>6} {'dropped':>8} {'changed':>8}  reasons")
    rows = Counter[str]()
    for domain, path in clean_files(data):
        with tempfile.TemporaryDirectory() as folder:
            result = curate(Wish(files=(path,), domain=domain), Path(folder) / "out")
        reasons = Counter[str]()
        for counts in result.reasons.values():
            reasons.update(counts)
        rows.update(records=result.records, dropped=result.dropped, changed=result.changed)
        listed = ", ".join(f"{name} {n}" for name, n in reasons.most_common())
        changes = ", ".join(f"{name} {n}" for name, n in result.changes.items())
        shares = f"{result.dropped / result.records:>8.2%} {result.changed / result.records:>8.2%}"
        name = path.relative_to(data).as_posix()
        print(f"{name:<32} {result.records:>6} {shares}  {listed} | {changes}", flush=True)
    dropped, changed = rows["dropped"] / rows["records"], rows["changed"] / rows["records"]
    print(f"{'all':<32} {rows['records']:>6} {dropped:>8.2%} {changed:>8.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dirty", action="store_true", help="planted defects only")
    parser.add_argument("--clean", action="store_true", help="false positives only")
    parser.add_argument("--again", type=int, metavar="SEED", help="other defects, by this seed")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with dirty/ and domains")
    wanted = parser.parse_args()
    if not (wanted.data / "dirty").is_dir():
        print(f"skipped: there is no {wanted.data / 'dirty'}; give the folder with --data.")
        return
    if wanted.again is not None:
        with tempfile.TemporaryDirectory() as folder:
            plant(wanted.data, wanted.again, Path(folder))
            print_dirty(Path(folder), wanted.data)
        return
    reached = wanted.clean or print_dirty(wanted.data / "dirty", wanted.data)
    if not wanted.dirty:
        print_clean(wanted.data)
    sys.exit(0 if reached else 5)


if __name__ == "__main__":
    main()
