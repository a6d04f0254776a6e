"""What every step of a study says of the whole study."""

import numpy as np
import pytest

from domainwright.core.progress import Step
from domainwright.maths.bootstrap import interval
from domainwright.studies import _live
from domainwright.studies._live import Live
from domainwright.studies.api import decide
from domainwright.studies.plan import Plan, StrategyPlan
from domainwright.studies.records import Candidate
from tests.studies import world
from tests.studies.verdicts import absent, result

NAMES = ("zero_shot", "lora", "lora+rag")


def planned(*candidates):
    minutes = ((1.0, 0.0, 0.0), (1.0, 4.0, 1.0), (2.0, 0.0, 0.0))
    return Plan(
        items=9,
        new_tokens=4,
        steps=6,
        read_tokens_per_s=1.0,
        write_tokens_per_s=1.0,
        strategies=tuple(
            StrategyPlan(name=n, ask_minutes=a, train_minutes=t, check_minutes=c)
            for n, (a, t, c) in zip(NAMES, minutes, strict=True)
        ),
        candidates=candidates,
    )


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(_live.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def live(clock):
    told = []
    live = Live(told.append)
    live.told = told
    live.plan(planned(), NAMES, 1, "token_f1")
    return live


def test_all_wait_for_the_planned_time(live):
    live(Step("retention base", 1, 2))
    (told,) = live.told
    assert [(s.name, s.status) for s in told.standings] == [(n, "waiting") for n in NAMES]
    assert told.left_s == 60 * 9


def test_the_plan_is_corrected_by_what_was_measured(live, clock):
    live.start(0, "zero_shot")
    live(Step("zero_shot", 0, 10))
    clock.now = 60.0
    live(Step("zero_shot", 5, 10))
    # Half is asked in a minute, so a minute is left of it; nothing is known of the others yet.
    assert live.told[-1].left_s == pytest.approx(60 + 8 * 60)
    clock.now = 120.0
    live.finish(result("zero_shot", 0.2, None), "token_f1")
    # It took 120 s instead of 60, beside a quarter of the plan of 540 s.
    pace = (135 + 120) / (135 + 60)
    assert live.told[-1].left_s == pytest.approx(pace * 8 * 60)
    assert live.told[-1].standings[0].score == "token F1 0.20 [0.15, 0.25]"
    live.start(1, "lora")
    live(Step("train lora", 0, 100))
    clock.now = 150.0
    live(Step("train lora", 10, 100))
    assert live.told[-1].left_s == pytest.approx(270 + pace * 60 * (1 + 1 + 2))
    assert live.told[-1].standings[1].doing == "training step 10 of 100"


def test_what_was_read_back_says_nothing_of_the_pace(live, clock):
    live.start(0, "zero_shot")
    clock.now = 1.0
    live.finish(result("zero_shot", 0.2, None), "token_f1")
    assert live.told[-1].left_s == pytest.approx(8 * 60)


def test_a_failure_is_shown_and_takes_no_more_time(live):
    for number, name in enumerate(NAMES):
        live.start(number, name)
        live.finish(absent(name, "failed", "The run diverged."), "token_f1")
    assert {s.status for s in live.told[-1].standings} == {"failed"}
    assert live.told[-1].left_s is None and live.told[-1].facts == {"lora+rag": "failed"}


def test_the_searched_method_has_no_name_before_it_is_found(clock):
    told = []
    live = Live(told.append)
    live.plan(planned(Candidate(method="prefix", learning_rate=0.1, of=6)), NAMES, 1, "token_f1")
    live.start(0, "zero_shot")
    live.finish(result("zero_shot", 0.2, None), "token_f1")
    live.start(1)
    live(Step("search", 1, 3))
    assert [s.name for s in told[-1].standings] == ["zero_shot", "best method", "best method+rag"]
    assert told[-1].standings[1].doing == "search 1 of 3"
    live.start(1, "prefix")
    live(Step("retention prefix", 1, 3))
    assert told[-1].standings[1].name == "prefix"
    assert told[-1].standings[1].doing == "forgetting 1 of 3"


def test_what_is_answered_already_has_a_score(live, clock):
    live.start(0, "zero_shot")
    marks = [(f"g{n}", float(n % 2)) for n in range(9)]
    live(Step("zero_shot", 9, 30, marks=marks))
    assert live.told[-1].standings[0].score == "", "too few to say anything"
    clock.now += 3
    marks += [("g9", 1.0)]
    live(Step("zero_shot", 10, 30, marks=marks))
    values, groups = [m for _, m in marks], [g for g, _ in marks]
    want = interval(np.array(values), groups)
    words = f"so far {want.mean:.2f} [{want.low:.2f}, {want.high:.2f}]"
    assert live.told[-1].standings[0].score == words
    marks += [(f"h{n}", 1.0) for n in range(9)]
    live(Step("zero_shot", 19, 30, marks=marks))
    assert live.told[-1].standings[0].score == words, "not with every token"
    clock.now += 3
    live(Step("zero_shot", 19, 30, marks=marks))
    assert live.told[-1].standings[0].score.startswith("so far 0.74 [")
    live.finish(result("zero_shot", 0.2, None), "token_f1")
    assert live.told[-1].standings[0].score.startswith("token F1 0.20 [")


def test_a_study_tells_it_with_every_step(quick, base, tmp_path, monkeypatch):
    monkeypatch.setattr(_live, "EVERY_S", 0.0)
    told = []
    study = world.study_file(tmp_path, base, seeds=2, evaluate={"items": 12})
    decide(study, tmp_path / "run", listen=told.append)
    first = next(n for n, step in enumerate(told) if step.standings)
    assert all(len(step.standings) == 2 for step in told[first:])
    seen = [s.standings[1] for s in told[first:]]
    assert {s.status for s in seen} == {"waiting", "running", "done"}
    between = [s.score for s in seen if s.status == "running" and s.score]
    assert {words.split()[0] for words in between} == {"so", "token"}
    assert told[-1].left_s is None and told[first].left_s > 0
