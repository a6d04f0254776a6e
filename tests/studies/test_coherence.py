"""Conversations asked turn by turn in a study: replies, statistics, what is shown."""

import json

import numpy as np
import pytest

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import ConfigError
from domainwright.core.records import Chat, Message
from domainwright.evaluate.metrics import token_f1
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.turns import Turn
from domainwright.maths.bootstrap import interval
from domainwright.studies import _turns
from domainwright.studies.api import decide, load_run, plan
from domainwright.studies.coherence import (
    FEWEST,
    MOST_ANSWERS,
    advice,
    answers,
    coherence,
    conversations,
    left_out,
    told,
)
from domainwright.studies.records import read_verdict
from domainwright.studies.report import render
from domainwright.studies.score import score_file
from domainwright.studies.task_records import Coherence
from tests.studies import verdicts, world
from tests.studies.words import stand_in

pytestmark = pytest.mark.usefixtures("quick")
STRATEGIES = ["zero_shot", "few_shot", "rag", "lora"]


def talks(plants=world.PLANTS, turns=2):
    """A conversation of each plant, every other one a turn longer."""
    rows = world.questions(plants)
    found = []
    for place, plant in enumerate(plants):
        own = rows[3 * place : 3 * place + turns + place % 2]
        said = [(r["question"], r["answer"]) for r in own]
        messages = [
            {"role": role, "content": text}
            for pair in said
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        found.append({"id": plant, "group": plant, "messages": messages})
    return found


def study_in(folder, base, rows=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    world.write_lines(folder / "documents.jsonl", world.documents())
    given = {
        "strategies": STRATEGIES,
        "data": {"documents": "documents.jsonl", "test_share": 0.3},
        "evaluate": {"items": None, "turns": True},
    }
    return world.study_file(folder, base, rows or talks(), **world.merged(given, changes))


def files(run, strategy, turn):
    place = run / "trials" / strategy / "turns" / str(turn)
    return [world.read_lines(place / name) for name in ("own.jsonl", "file.jsonl")]


def by_hand(run, name, row, count, own=True):
    """Replies of a strategy, asked as `dw chat` asks it, one turn of one conversation a time."""
    opened, history, said = load_run(run, name), [], []
    for place in range(1, 2 * count, 2):
        question = row["messages"][place - 1]["content"]
        said.append(opened.chat(question, history=history, new_tokens=4))
        answer = said[-1] if own else row["messages"][place]["content"]
        history += [Message("user", question), Message("assistant", answer)]
    return said


@pytest.fixture(scope="module")
def made(tmp_path_factory, base):
    with pytest.MonkeyPatch.context() as patch:
        world.small_suite(patch)
        return decide(
            study_in(tmp_path_factory.mktemp("talks"), base), tmp_path_factory.mktemp("o") / "run"
        )


def test_replies_are_those_of_a_chat(made):
    rows = {row["id"]: row for row in talks()}
    for name in STRATEGIES:
        turns = [files(made.folder, name, turn) for turn in (1, 2, 3)]
        scorecard = world.read_lines(made.folder / "trials" / name / "scorecard/items.jsonl")
        assert [x["id"] for x in turns[0][0]] == [x["id"] for x in scorecard]
        assert 0 < len(turns[2][0]) == len(turns[1][1]) < len(turns[1][0])
        for one in scorecard:
            row = rows[one["id"]]
            count = len(row["messages"]) // 2
            got = [x["reply"] for own, _ in turns for x in own if x["id"] == one["id"]]
            assert got == by_hand(made.folder, name, row, count)
            after_file = by_hand(made.folder, name, row, count, own=False)
            kept = [x["reply"] for _, file in turns for x in file if x["id"] == one["id"]]
            assert kept == after_file[1:-1] and one["reply"] == after_file[-1]


def test_a_turn_names_the_one_before_it(made):
    first, second = (read_manifest(made.folder / "trials/lora/turns" / n, "turns") for n in "12")
    assert second["parents"]["turn before"] == first["hash"]
    adapter = read_manifest(made.folder / "trials/lora/adapter", "adapter")["hash"]
    assert adapter in first["parents"].values() and adapter in second["parents"].values()


def test_a_turn_is_asked_as_the_last_one_is(made):
    """Passages are those of the turn's own question, examples stand ahead of the conversation."""
    for item in files(made.folder, "rag", 1)[0]:
        run = load_run(made.folder, "rag")
        assert list(run.ask(item["question"], new_tokens=1)[1]) == item["passages"]
    more = files(made.folder, "few_shot", 2)[0][0]["tokens_in"]
    assert more > files(made.folder, "zero_shot", 2)[0][0]["tokens_in"] + 30


def test_the_verdict_has_every_strategy_by_turn(made):
    verdict = read_verdict(made.folder / "verdict.json")
    assert [x.strategy for x in verdict.turns] == STRATEGIES
    for found in verdict.turns:
        own, last = [], {}
        for turn in (1, 2, 3):
            for x in files(made.folder, found.strategy, turn)[0]:
                last[x["id"]] = x["mark"][0]
            own.append(files(made.folder, found.strategy, turn)[0])
        card = world.read_lines(made.folder / "trials" / found.strategy / "scorecard/items.jsonl")
        gap = [last[x["id"]] - x["mark"][0] for x in card]
        assert found.cost == interval(np.array(gap), [x["group"] for x in card])
        assert [t.items for t in found.turns] == [len(x) for x in own]
        means = [np.mean([x["mark"][0] for x in turn]) for turn in own]
        assert [t.own.mean for t in found.turns] == pytest.approx(means)
        assert found.turns[0].own == found.turns[0].file
        assert found.later == sum(map(len, own[1:]))
    page = render(verdict)
    assert 'id="turns"' in page and 'href="#turns"' in page
    assert "What its own earlier turns cost it" in page


def test_an_interrupted_study_goes_on_with_the_next_turn(tmp_path, base, monkeypatch):
    study, asked = study_in(tmp_path, base, strategies=["zero_shot", "lora"]), []
    whole = decide(study, tmp_path / "whole").verdict
    plain = _turns.replied

    def stops(*args, stage, **given):
        asked.append(stage)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return plain(*args, stage=stage, **given)

    monkeypatch.setattr(_turns, "replied", stops)
    with pytest.raises(KeyboardInterrupt):
        decide(study, tmp_path / "run")
    assert asked == ["turn 1", "turn 2", "turn 3", "turn 1", "turn 2"]
    assert not (tmp_path / "run/trials/lora/turns/2").exists()
    asked[4:] = ["-"] * 5
    found = decide(study, tmp_path / "run", resume=True).verdict
    assert asked[9:] == ["turn 2", "turn 3"]
    assert found.turns == whole.turns and found.recommendation == whole.recommendation


def test_gates_tasks_and_folds_answer_turns_as_they_answer_items(tmp_path, base, monkeypatch):
    stand_in(monkeypatch)
    rows = talks()
    for row in rows[::2]:
        row["messages"][0]["content"] = f"Ab{row['id']} cd{row['id']} ef{row['id']}?"
    changes = {"data": {"development_share": 0.3}, "gate": {"share": 0.9, "nearest": 2}}
    names = ["zero_shot", "lora", "lora+gated"]
    run = decide(study_in(tmp_path / "g", base, rows, strategies=names, **changes), tmp_path / "gr")
    opened, by_id, who = load_run(run.folder, "lora+gated"), {r["id"]: r for r in rows}, set()
    for x in files(run.folder, "lora+gated", 2)[0]:
        assert by_hand(run.folder, "lora+gated", by_id[x["id"]], 2)[1] == x["reply"]
        first = next(y for y in files(run.folder, "lora+gated", 1)[0] if y["id"] == x["id"])
        who.add((opened.reply(first["question"]).given_by, opened.reply(x["question"]).given_by))
    assert ("base", "adapter") in who  # the gate is asked at every turn

    data = {"train": [{"path": "train.jsonl", "task": "a"}, {"path": "more.jsonl", "task": "b"}]}
    study = study_in(tmp_path / "t", base, rows[:10], data=data, strategies=["lora+tasks"])
    world.write_lines(tmp_path / "t/more.jsonl", rows[10:])
    run = decide(study, tmp_path / "tr")
    opened = load_run(run.folder, "lora+tasks")
    for x in files(run.folder, "lora+tasks", 1)[0]:
        task = "a" if x["id"] in {row["id"] for row in rows[:10]} else "b"
        assert opened.for_task(task).chat(x["question"], new_tokens=4) == x["reply"]

    data = {"folds": 2, "documents": []}
    study = study_in(tmp_path / "f", base, data=data, seeds=2, strategies=["zero_shot", "lora"])
    run = decide(study, tmp_path / "fr")
    plain, lora = run.verdict.turns
    assert plain.conversations == lora.conversations == 20
    one, other = (files(run.folder / "folds" / n, "lora", 1)[0] for n in "12")
    assert len(one) + len(other) == 20 and not {x["id"] for x in one} & {x["id"] for x in other}


def test_which_conversations_are_asked():
    def row(number, turns):
        both = (Message("user", "q"), Message("assistant", "a"))
        return Chat(id=f"{number}", group="g", file="f", line=1, messages=both * turns)

    single, double = [row(n, 1) for n in range(20)], [row(n, 2) for n in range(200)]
    assert conversations("auto", [*single, *double[: FEWEST - 1]]) == []
    assert len(conversations("auto", [*single, *double[:FEWEST]])) == FEWEST
    some = conversations("auto", double)
    assert some == double[: MOST_ANSWERS // 2] and answers(some) == MOST_ANSWERS
    assert len(conversations("auto", [row(n, 9) for n in range(40)])) == FEWEST
    assert conversations(False, double) == [] and conversations(True, double) == double
    assert "50 of 200 conversations" in left_out("auto", double)[0]
    assert left_out(True, double) == left_out("auto", single) == left_out("auto", some) == []
    with pytest.raises(ConfigError, match=r"evaluate\.turns is true, and none of 20 rows"):
        conversations(True, single)


def test_the_plan_counts_the_turns_and_keeps_its_items(tmp_path, base):
    # Twenty-four test conversations of two and three turns take 2 and 4 answers more.
    plants = [f"{name}{end}" for name in world.PLANTS for end in ("", "wort", "leaf", "moss")]
    study = study_in(tmp_path, base, talks(plants), evaluate={"items": 24})
    off, on = (plan(study, overrides=[f"evaluate.turns={x}"]) for x in ("false", "true"))
    assert off.items == on.items == 24
    for one, other in zip(off.strategies, on.strategies, strict=True):
        # Both are probed anew; a third of the answers more would be far below what is added.
        assert other.ask_minutes > 1.5 * one.ask_minutes


def test_turns_are_refused_where_there_are_none(tmp_path, base):
    study = study_in(tmp_path, base, world.questions())
    with pytest.raises(ConfigError, match="two replies of the assistant"):
        decide(study, tmp_path / "run")
    with pytest.raises(ConfigError, match="--turns is given"):
        score_file(str(base), tmp_path / "train.jsonl", items=5, new_tokens=2, turns=True)


def test_a_history_that_does_not_fit_costs_no_verdict(tmp_path, base, monkeypatch):
    plain = _turns.replied

    def full(*args, stage, **given):
        if stage == "turn 2":
            raise ConfigError("A prompt of 9 tokens exceeds the context.", "shorten.")
        return plain(*args, stage=stage, **given)

    monkeypatch.setattr(_turns, "replied", full)
    verdict = decide(study_in(tmp_path, base, strategies=["lora"]), tmp_path / "run").verdict
    assert {x.failed for x in verdict.turns} == {"A prompt of 9 tokens exceeds the context."}
    assert all(r.score for r in verdict.strategies)
    assert any("could not be asked turn by turn" in x for x in verdict.recommendation.reasons)
    assert "exceeds the context" in render(verdict)


def test_evaluate_asks_a_run_turn_by_turn(made, tmp_path, capsys):
    from typer.testing import CliRunner

    from domainwright.cli.main import app

    file = world.write_lines(tmp_path / "talks.jsonl", talks()[:6])
    said = CliRunner().invoke(
        app, ["evaluate", str(made.folder), "--data", str(file), "--turns", "--new-tokens", "4"]
    )
    assert "turn 2, 6 rows" in said.output and "asked turn by turn (6 conv" in said.output
    found = score_file(str(made.folder), file, items=6, new_tokens=4, turns=True)
    json.dumps(found)
    name = made.verdict.recommendation.strategy
    assert found["turns"]["strategy"] == name and found["turns"]["conversations"] == 6
    want = [
        token_f1(by_hand(made.folder, name, row, 1)[0], row["messages"][1]["content"])
        for row in talks()[:6]
    ]
    assert found["turns"]["turns"][0]["own"]["mean"] == pytest.approx(np.mean(want))


def item(row, score, marks=()):
    mark = Mark(score, True)
    return Item(id=row, group=row, question="", reference="", reply="same", mark=mark, marks=marks)


def test_what_history_costs_is_told_of_the_winner_alone():
    both = (Message("user", "q"), Message("assistant", "same"))
    rows = [Chat(id=f"{n}", group=f"{n}", file="f", line=1, messages=both * 2) for n in range(9)]
    own = tuple(item(r.id, 0.2 + 0.01 * int(r.id)) for r in rows)
    first = tuple(item(r.id, 0.9) for r in rows)
    # The scorecard holds means over two seeds; the turns are of the first.
    last = [item(r.id, 0.9, (0.5, 1.3)) for r in rows]
    found = coherence("lora", rows, [Turn(1, first, first), Turn(2, own, ())], last)
    assert found.cost.mean == pytest.approx(0.24 - 0.5) and found.cost.high < 0
    assert found.turns[1].file.mean == 0.5
    assert (found.repeated, found.later, found.repeated_in_file) == (9, 9, 9)
    text = told(found, "token_f1")
    assert text.startswith("lora asked turn by turn (9 conversations)")
    assert "9 of 9 later replies repeat an earlier one word for word (in the file 9)" in text
    (sentence,) = advice([found], "lora", "token_f1")
    assert "reads its own earlier replies, and that costs it" in sentence and "-0.26" in sentence
    assert advice([found], "rag", "token_f1") == []
    better = coherence("lora", rows, [Turn(1, first, first), Turn(2, first, ())], last)
    assert advice([better], "lora", "token_f1") == []


def test_a_verdict_with_turns_that_failed_is_shown():
    failed = Coherence(strategy="lora", conversations=12, failed="Too long.")
    page = render(verdicts.verdict(turns=[failed]))
    assert "Too long." in page and "12 conversations" in page
