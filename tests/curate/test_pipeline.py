"""From files to a dataset: all accounted for, read back equal, the same after a kill."""

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import CapabilityError, ConfigError, DataError, UnknownName
from domainwright.core.records import Chat, Choice
from domainwright.curate import _judging, pipeline
from domainwright.curate.curated import explain, read_report
from domainwright.curate.pipeline import Wish, curate
from domainwright.curate.read import read
from tests.forked import end, fork

DIRTY = Path(__file__).parents[3] / "shared" / "data" / "dirty"
WORDS = "court clause party lease rent buyer seller goods price notice writing breach damage"


def rows(count: int, seed: int = 0) -> list[dict]:
    draw, vocabulary = (
        random.Random(seed),
        [word + a + b for word in WORDS.split() for a in "aeiou" for b in "lmnrst"],
    )
    return [
        {
            "id": f"r{n}",
            "question": f"What is said of {' '.join(draw.sample(vocabulary, 4))}?",
            "answer": f"It says {' '.join(draw.sample(vocabulary, 25))}.",
        }
        for n in range(count)
    ]


def write(path: Path, entries: list) -> Path:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def dirty(tmp_path):
    good = rows(60)
    bad = [
        {"id": "copy", "question": good[3]["question"], "answer": good[3]["answer"]},
        '{"id": "cut", "question": "What',
        {"id": "none", "question": "What?"},
        {"id": "blank", "question": "What?", "answer": " "},
        {"id": "mail", "question": "Who is it?", "answer": "Write to ann.lee@example.com today."},
        {
            "id": "r5",
            "question": "Whose id is r5?",
            "answer": "Two rows have it, and both are kept.",
        },
    ]
    return write(tmp_path / "dirty.jsonl", good + bad)


def test_every_record_is_accounted_for(dirty, tmp_path):
    result = curate(Wish(files=(dirty,)), tmp_path / "out")
    assert (result.records, result.kept, result.dropped) == (66, 62, 4)
    dropped = lines(tmp_path / "out" / "dropped.jsonl")
    assert {entry["reason"]: entry["line"] for entry in dropped} == {
        "exact_duplicate": 61,
        "truncated_json": 62,
        "malformed_record": 63,
        "empty_answer": 64,
    }
    kept = pq.read_table(tmp_path / "out" / "kept.parquet").to_pylist()
    places = Counter(row["source_line"] for row in kept) + Counter(d["line"] for d in dropped)
    assert places == Counter(range(1, 67))
    assert read_manifest(tmp_path / "out", "curated")["parents"].keys() == {str(dirty)}
    assert read_report(tmp_path / "out").reasons == result.reasons
    assert not list(tmp_path.glob(".*")), "nothing is left beside the dataset"


def test_secrets_are_nowhere_in_the_dataset(dirty, tmp_path):
    result = curate(Wish(files=(dirty,), keep_secrets=True), tmp_path / "out")
    assert result.secrets == {"mail": {"[EMAIL_1]": "ann.lee@example.com"}}
    for path in (tmp_path / "out").iterdir():
        assert b"ann.lee" not in path.read_bytes(), path
    (change,) = lines(tmp_path / "out" / "changed.jsonl")
    assert (change["id"], change["what"], change["before"]) == ("mail", "pii", 1)
    assert change["kinds"] == {"EMAIL": 1}


def test_kept_rows_are_read_back_as_the_same_rows(dirty, tmp_path):
    curate(Wish(files=(dirty,)), tmp_path / "out")
    before = {row.id: row for row in read(dirty).rows if isinstance(row, Chat)}
    after = read(tmp_path / "out" / "kept.parquet")
    assert not after.set_aside and after.format == "messages"
    for row in after.rows:
        if row.id in before and row.id != "mail":
            assert row.messages == before[row.id].messages and row.group == before[row.id].group


@pytest.mark.parametrize("kind", ["instructions", "choices", "text", "preferences"])
def test_every_kind_of_row_survives_the_table(kind, tmp_path):
    file = DIRTY / f"{kind}_dirty.jsonl"
    if not file.is_file():
        pytest.skip(f"no {file}")
    head = write(tmp_path / "head.jsonl", file.read_text("utf-8").splitlines()[:120])
    result = curate(Wish(files=(head,)), tmp_path / "out")
    back = read(tmp_path / "out" / "kept.parquet")
    assert len(back.rows) == result.kept and not back.set_aside


def test_rows_of_several_kinds_make_several_tables(tmp_path):
    chats = write(tmp_path / "chats.jsonl", rows(5))
    asked = {"question": "Is rent owed?", "choices": ["yes", "no"], "answer": 0}
    choices = write(tmp_path / "choices.jsonl", [asked])
    result = curate(Wish(files=(chats, choices)), tmp_path / "out")
    assert result.tables == ["kept.chat.parquet", "kept.choice.parquet"]
    assert isinstance(read(tmp_path / "out" / "kept.choice.parquet").rows[0], Choice)


def test_an_ids_story(dirty, tmp_path):
    curate(Wish(files=(dirty,)), tmp_path / "out")
    (copy,) = explain(tmp_path / "out", "copy")
    assert copy["was"] == "dropped" and "'r3'" in copy["detail"]
    assert [step["was"] for step in explain(tmp_path / "out", "mail")] == ["changed", "kept"]
    (second,) = explain(tmp_path / "out", "r5#dirty.jsonl:66")
    assert second["was"] == "kept" and second["line"] == 66
    with pytest.raises(DataError, match="'r99'"):
        explain(tmp_path / "out", "r99")


def test_a_folder_is_not_overwritten_by_accident(dirty, tmp_path):
    out = tmp_path / "out"
    curate(Wish(files=(dirty,)), out)
    with pytest.raises(ConfigError, match="--fresh"):
        curate(Wish(files=(dirty,)), out)
    assert curate(Wish(files=(dirty,)), out, fresh=True).records == 66
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not made by dw curate"):
        curate(Wish(files=(dirty,)), tmp_path / "mine", fresh=True)


def test_mistakes_say_what_to_type(dirty, tmp_path):
    with pytest.raises(ConfigError, match="listed twice"):
        curate(Wish(files=(dirty, dirty)), tmp_path / "out")
    with pytest.raises(ConfigError, match="dw curate FILE"):
        curate(Wish(files=()), tmp_path / "out")
    with pytest.raises(UnknownName, match="medical"):
        curate(Wish(files=(dirty,), domain="medcal"), tmp_path / "out")
    with pytest.raises(DataError, match="no file"):
        curate(Wish(files=(tmp_path / "dirt.jsonl",)), tmp_path / "out")
    bare = write(tmp_path / "bare.jsonl", [{"question": "?", "answer": "yes"}])
    with pytest.raises(DataError, match="None of the 1 records is left"):
        curate(Wish(files=(bare,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluation_items_are_kept_out(dirty, tmp_path):
    exam = [
        {"question": row["question"], "choices": ["a", "b"], "answer": 0} for row in rows(60)[:4]
    ]
    against = write(tmp_path / "exam.jsonl", exam)
    result = curate(Wish(files=(dirty,), against=(against,)), tmp_path / "out")
    assert result.reasons["eval_leakage"] == {"eval_leakage": 5}, "four items and the copy of one"


@pytest.mark.parametrize(("workers", "later"), [(1, 0.05), (2, 0.4)])
def test_killed_at_any_moment_the_dataset_is_the_same(workers, later, tmp_path, monkeypatch):
    monkeypatch.setattr("domainwright.curate.pipeline.CHUNK_ROWS", 40)
    entries = rows(400)
    file = write(tmp_path / "many.jsonl", entries + entries[:50])
    curate(Wish(files=(file,)), tmp_path / "whole")
    wanted = read_manifest(tmp_path / "whole")["files"]
    out, log, draw, kills = tmp_path / "out", tmp_path / "log", random.Random(1), 0
    for attempt in range(40):
        pid = fork(["curate", file, "-o", out, "--workers", workers], Path(os.devnull), log)
        # Later and later, so that kills fall on every stage and some attempt ends. Workers take
        # a second to begin.
        time.sleep(draw.uniform(0.0, later * (1 + attempt)))
        os.kill(pid, signal.SIGKILL)
        if end(pid) == 0:
            break
        kills += 1
        assert not out.exists() or read_manifest(out)["files"] == wanted
        if out.exists():
            break
    assert kills >= 2, "the test killed nothing"
    assert read_manifest(out)["files"] == wanted


def test_finished_pieces_are_not_judged_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "CHUNK_ROWS", 50)
    file = write(tmp_path / "many.jsonl", rows(200))
    judged, real = [], _judging.judged

    def judge(items, *rest):
        if len(judged) == 3:
            raise KeyboardInterrupt
        judged.append(len(items))
        return real(items, *rest)

    monkeypatch.setattr(_judging, "judged", judge)
    with pytest.raises(KeyboardInterrupt):
        curate(Wish(files=(file,)), tmp_path / "out")
    monkeypatch.setattr(_judging, "judged", lambda *a: judged.append("again") or real(*a))
    assert curate(Wish(files=(file,)), tmp_path / "out").kept == 200
    assert judged == [50, 50, 50, "again"]
    # Other settings: the pieces of the first attempt would be wrong.
    assert curate(Wish(files=(file,), use=("refusal",)), tmp_path / "other").kept == 200


def test_several_workers_make_the_same_dataset(dirty, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "CHUNK_ROWS", 30)
    alone = curate(Wish(files=(dirty,), workers=1, keep_secrets=True), tmp_path / "alone")
    monkeypatch.setattr(_judging.PieceMaker, "make", None)
    three = curate(Wish(files=(dirty,), workers=3, keep_secrets=True), tmp_path / "three")
    files = read_manifest(tmp_path / "alone")["files"]
    assert files == read_manifest(tmp_path / "three")["files"]
    assert alone.secrets == three.secrets and alone.reasons == three.reasons


def test_much_data_gets_a_worker_for_each_core(dirty, tmp_path, monkeypatch):
    asked, real = [], pipeline.judging
    monkeypatch.setattr(pipeline, "judging", lambda task, n: asked.append(n) or real(task, 1))
    monkeypatch.setattr(pipeline, "cores", lambda: 6)
    curate(Wish(files=(dirty,)), tmp_path / "small")
    monkeypatch.setattr(pipeline, "_SMALL_BYTES", 100)
    curate(Wish(files=(dirty,)), tmp_path / "large")
    assert asked == [1, 6]
    with pytest.raises(ConfigError, match="workers is 0"):
        Wish(files=(dirty,), workers=0)


class Failing:
    """A filter that fails in the worker."""

    def ready(self, sample):
        return self.look

    def look(self, row):
        if row.id == "r7":
            raise DataError("The row r7 is bad.", "take another.")


class Ending(Failing):
    def look(self, row):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("filter", "error", "said"),
    [(Failing(), DataError, "row r7 is bad"), (Ending(), CapabilityError, "exit code -9")],
)
def test_what_goes_wrong_in_a_worker_is_told(filter, error, said, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "CHUNK_ROWS", 5)
    monkeypatch.setattr(pipeline, "chosen", lambda *_: [("failing", filter)])
    monkeypatch.setattr(pipeline, "described", lambda filters: {})
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    file = write(tmp_path / "many.jsonl", rows(40))
    with pytest.raises(error, match=said):
        curate(Wish(files=(file,), workers=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_of_one_id_get_their_own_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("domainwright.curate._sources._AT_ONCE", 3)
    entries = [{**row, "id": f"r{n % 4}"} for n, row in enumerate(rows(12))]
    file = write(tmp_path / "twice.jsonl", entries)
    curate(Wish(files=(file,)), tmp_path / "out")
    ids = pq.read_table(tmp_path / "out" / "kept.parquet")["id"].to_pylist()
    assert ids[:4] == ["r0", "r1", "r2", "r3"]
    assert ids[4:] == [f"r{n % 4}#twice.jsonl:{n + 1}" for n in range(4, 12)]
