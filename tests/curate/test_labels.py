"""Wrong labels that are planted are found; rows that have none to compare are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from domainwright.cli.main import app
from domainwright.core.errors import CapabilityError, DataError
from domainwright.core.records import Choice
from domainwright.curate import labels
from domainwright.curate.labels import hashed_words, label_errors
from tests.curate.test_relevance import texts
from tests.studies import world
from tests.tiny import chat

KINDS = ("finance", "law", "medicine")


def cases(count=300, seed=0, flipped=0.2):
    """(rows, ids of those whose label is wrong); half the words tell the label."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, count)
    made = [texts(KINDS[kind], 1, seed + n, 16)[0] for n, kind in enumerate(kinds)]
    rows = [
        Choice(
            id=f"r{n}",
            group=f"g{n // 2}",
            file="f.jsonl",
            line=n + 1,
            question=text,
            choices=KINDS if n % 3 else KINDS[::-1],
            answer=int(kind) if n % 3 else 2 - int(kind),
        )
        for n, (text, kind) in enumerate(zip(made, kinds, strict=True))
    ]
    wrong = set(rng.permutation(count)[: int(flipped * count)].tolist())
    rows = [
        replace(row, answer=(row.answer + int(rng.integers(1, 3))) % 3) if n in wrong else row
        for n, row in enumerate(rows)
    ]
    return rows, {f"r{n}" for n in wrong}


def test_planted_errors_are_found(monkeypatch):
    seen = []

    def spy(*given):
        seen.append(labels_of(*given))
        return seen[-1]

    labels_of = labels.doubts
    monkeypatch.setattr(labels, "doubts", spy)
    rows, wrong = cases()
    found = label_errors(rows, encode=hashed_words)
    assert (found.rows, found.labels, sum(found.counts)) == (300, list(KINDS), 300)
    margin = seen[0].margin_N
    bad = np.array([row.id in wrong for row in rows])
    pairs = margin[bad][:, None] < margin[~bad][None]
    assert pairs.mean() >= 0.9, "AUC"
    assert bad[np.argsort(margin)[: len(wrong)]].mean() >= 0.7, "precision at the number planted"
    assert found.wrong_share == pytest.approx(0.2, abs=0.06)
    listed = [suspect.id for suspect in found.suspects]
    assert np.mean([name in wrong for name in listed]) >= 0.7 and len(listed) >= 0.7 * len(wrong)
    margins = [suspect.margin for suspect in found.suspects]
    assert margins == sorted(margins) and margins[-1] < 0
    first = found.suspects[0]
    row = rows[int(first.id[1:])]
    assert first.given == row.choices[row.answer] != first.likelier
    assert found.reads == "given vectors"


def test_no_row_is_judged_by_its_own_group():
    """Every text stands twice in its group, once with each label: nothing is to be learnt."""
    rows, _ = cases(80, flipped=0)
    twins = [replace(r, id=f"{r.id}b", answer=(r.answer + 1) % 3, line=99) for r in rows]
    fold_N = labels._folds([row.group for row in (*rows, *twins)], 0)
    groups = {}
    for row, fold in zip((*rows, *twins), fold_N, strict=True):
        groups.setdefault(row.group, set()).add(int(fold))
    assert all(len(folds) == 1 for folds in groups.values())
    sizes = np.bincount(fold_N)
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 4


def test_without_the_encoder_words_are_hashed(monkeypatch):
    def missing():
        raise CapabilityError("It is not installed.", "install it.")

    monkeypatch.setattr("domainwright.models.encoder.default_encoder", missing)
    rows, wrong = cases(120)
    found = label_errors(rows)
    assert found.reads == "hashed words"
    assert np.mean([suspect.id in wrong for suspect in found.suspects]) > 0.6


def test_what_has_no_labels_is_refused():
    rows, _ = cases(6, flipped=0)
    with pytest.raises(DataError, match="other rows"):
        label_errors([*rows, chat("Is it?", "No.")])
    with pytest.raises(DataError, match="2 sets of choices"):
        label_errors([*rows, replace(rows[0], choices=("yes", "no"), answer=0)])
    with pytest.raises(DataError, match="0 sets of choices"):
        label_errors([])
    same = [replace(row, choices=KINDS, answer=1) for row in rows]
    with pytest.raises(DataError, match="have the label 'law'"):
        label_errors(same)
    with pytest.raises(DataError, match="of one group"):
        label_errors([replace(row, group="one") for row in rows])


def test_the_verb_lists_and_drops_nothing(tmp_path):
    rows, wrong = cases(60)
    lines = [
        {"id": r.id, "question": r.question, "choices": list(r.choices), "answer": r.answer}
        for r in rows
    ]
    broken = {**lines[0], "id": "broken", "answer": 7}
    file = world.write_lines(tmp_path / "rows.jsonl", [*lines, broken])
    before = file.read_bytes()
    done = CliRunner().invoke(app, ["data", "labels", str(file), "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert [entry["id"] for entry in told["set_aside"]] == ["broken"]
    assert told["rows"] == 60 and told["reads"] == "sentence vectors"
    assert {suspect["id"] for suspect in told["suspects"]} & wrong
    shown = CliRunner().invoke(app, ["data", "labels", str(file), "-n", "2"])
    assert shown.exit_code == 0 and file.read_bytes() == before
    assert "60 rows" in shown.stdout and told["suspects"][0]["id"] in shown.stdout
    assert "1 records are no rows" in shown.stdout
    assert f"{len(told['suspects']) - 2} more" in shown.stdout
    world.write_lines(file, world.questions())
    refused = CliRunner().invoke(app, ["data", "labels", str(file)])
    assert refused.exit_code == 3 and "always the same" in refused.stderr
