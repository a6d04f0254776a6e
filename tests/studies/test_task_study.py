"""Studies about a task of lm-eval; what lm-eval itself says of the same model is the oracle."""

import re

import pytest
import yaml

import domainwright as dw
from domainwright.core.errors import CapabilityError, ConfigError, DataError, UnknownName
from domainwright.evaluate.lm_eval_tasks import load_tasks
from domainwright.studies._exam import Exam
from domainwright.studies.data import prepare
from domainwright.studies.study import read_study
from tests.lm_eval_here import TASKS, data_cache, lm_eval_here  # noqa: F401
from tests.studies import world

pytestmark = pytest.mark.usefixtures("lm_eval_here", "quick")


def study(folder, base, task, include=TASKS, **changes):
    """A study of all the task's items; the file that `study_file` writes is not in use."""
    settings = {
        "data": {"train": [], "task": task, "include": str(include)},
        "evaluate": {"items": 99, "new_tokens": None},
    }
    return world.study_file(folder, base, **world.merged(settings, changes))


def own_task(folder, name, rows, shown=None, **changes):
    """A task of ours in `folder`: its test documents are `rows`, its training documents `shown`."""
    files = {"test": str(world.write_lines(folder / f"{name}.jsonl", rows))}
    if shown is not None:
        files["train"] = str(world.write_lines(folder / f"{name}_train.jsonl", shown))
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "output_type": "multiple_choice",
        "description": "Choose what is right.\n\n",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 3.0},
        **({"training_split": "train"} if shown is not None else {}),
        **changes,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def quiz(kind):
    """Twenty questions of one kind, with the right choice at different places."""
    rows = []
    for place, plant in enumerate(world.PLANTS):
        right = world.COLOURS[place % 5]
        wrong = [c for c in world.COLOURS if c != right][:2]
        choices = [*wrong[: place % 3], right, *wrong[place % 3 :]]
        asked = f"which {kind} does the {plant} have in its number {place} garden"
        rows.append({"question": asked, "choices": choices, "answer": choices.index(right)})
    return rows


@pytest.fixture
def mine(tmp_path):
    """A folder with tasks of our own."""
    folder = tmp_path / "mine"
    folder.mkdir()
    two = [
        {"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc_norm", "acc")
    ]
    own_task(folder, "dw_leaf", quiz("leaf")[:9], quiz("leaf")[9:], metric_list=two)
    own_task(folder, "dw_root", quiz("root")[:7], quiz("root")[7:], metadata={"version": 4.0})
    group = {"group": "dw_plants", "task": ["dw_leaf", "dw_root"]}
    (folder / "dw_plants.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    return folder


def items(folder, name):
    return world.read_lines(folder / "trials" / name / "scorecard/items.jsonl")


def oracle(base, task, folder=TASKS):
    """What lm-eval's own run says of the base, task by task."""
    model = dw.load_base(str(base), dtype="float32")
    return load_tasks([task], include=folder, shots=0).ask(model, errors=False).results


def assert_marked_alike(ours, wanted):
    assert sorted(x["id"] for x in ours) == sorted(x.id for x in wanted.items)
    by_id = {x["id"]: x for x in ours}
    for x in wanted.items:
        assert by_id[x.id]["metrics"] == x.metrics
        assert by_id[x.id]["mark"][0] == x.mark.correct


@pytest.mark.parametrize(
    ("task", "score", "strategies"),
    [
        ("dw_choice", "acc_norm", ["zero_shot", "few_shot", "lora", "lora+rag"]),
        (
            "dw_written",
            "exact_match,first-letters",
            ["zero_shot", "few_shot", "instructed", "lora"],
        ),
    ],
)
def test_base_and_adapter_are_marked_as_lm_eval_marks_them(task, score, strategies, tmp_path, base):
    file = study(tmp_path, base, task, strategies=strategies)
    decided = dw.decide(file, tmp_path / "run")
    verdict, folder = decided.verdict, decided.folder
    (plain,) = oracle(base, task)
    assert verdict.score == plain.deciding == score
    by = {r.name: r for r in verdict.strategies}
    assert {n: r.status for n, r in by.items()} == dict.fromkeys(strategies, "done")
    assert_marked_alike(items(folder, "zero_shot"), plain)
    compared = [m for m in plain.metrics if m.name in by["zero_shot"].metrics]
    assert len(compared) >= 2
    for metric in compared:
        assert by["zero_shot"].metrics[metric.name] == pytest.approx(metric.value)
    run = dw.load_run(folder, "lora")
    with run.adapter.attached():
        (tuned,) = load_tasks([task], include=TASKS, shots=0).ask(run.base, errors=False).results
    assert_marked_alike(items(folder, "lora"), tuned)
    # Other prompts are other questions: the examples are the study's own training rows.
    assert by["few_shot"].tokens_in > 1.5 * by["zero_shot"].tokens_in


def test_the_verdict_says_whose_task_it_is(tmp_path, base):
    file = study(tmp_path, base, "dw_choice", strategies=["zero_shot"])
    decided = dw.decide(file, tmp_path / "run")
    verdict = decided.verdict
    assert verdict.data.lm_eval == {"dw_choice": "1.5"} and verdict.versions["lm_eval"]
    assert [(s.file, s.role, s.format, s.records) for s in verdict.data.sources] == [
        ("dw_choice (train)", "train", "lm-eval multiple_choice", 6),
        ("dw_choice (test)", "test", "lm-eval multiple_choice", 24),
    ]
    assert any(
        "lm-eval's own: dw_choice (version 1.5)" in x for x in verdict.recommendation.reasons
    )
    assert verdict.data.tested == 24 and verdict.task == "choices"
    page = re.sub(r"<wbr>|<[^>]+>", "", (decided.folder / "report.html").read_text())
    assert "They are those of lm-eval's dw_choice (version 1.5)" in page and "acc_norm" in page
    assert dw.plan(file).items == 24


def test_another_metric_of_the_task_decides(tmp_path, base):
    file = study(tmp_path, base, "dw_choice", strategies=["zero_shot"], evaluate={"score": "acc"})
    verdict = dw.decide(file, tmp_path / "run").verdict
    (plain,) = oracle(base, "dw_choice")
    value = {m.name: m.value for m in plain.metrics}["acc"]
    assert verdict.score == "acc" and verdict.strategies[0].score.mean == pytest.approx(value)
    # mcc is of all items together, so no strategy can be compared by it.
    with pytest.raises(ConfigError, match=r"acc_norm, acc, acc_bytes\.$"):
        dw.decide(file, tmp_path / "other", overrides=["evaluate.score=mcc"])


def test_a_group_is_asked_task_by_task(tmp_path, base, mine, monkeypatch):
    sent = []
    ask = Exam.ask

    def watched(self, name, prompting, *values, **names):
        sent.extend((row, self.prompters.get(prompting).prompt(row).text) for row in self.rows)
        return ask(self, name, prompting, *values, **names)

    monkeypatch.setattr(Exam, "ask", watched)
    file = study(tmp_path, base, "dw_plants", mine, strategies=["zero_shot", "few_shot"])
    decided = dw.decide(file, tmp_path / "run")
    # By the one metric that both have.
    want = {
        x.id: {"acc": x.metrics["acc"]} for r in oracle(base, "dw_plants", mine) for x in r.items
    }
    assert {x["id"]: x["metrics"] for x in items(decided.folder, "zero_shot")} == want
    assert decided.verdict.score == "acc" and 0 < sum(x["acc"] for x in want.values()) < 16
    assert {row.topic for row, _ in sent} == {"dw_leaf", "dw_root"}
    assert {t.task for t in decided.verdict.tasks} == {"dw_leaf", "dw_root"}
    assert decided.verdict.data.lm_eval == {"dw_leaf": "3.0", "dw_root": "4.0"}
    # The description once, ahead of the examples, and each as the task writes it.
    texts = load_tasks(["dw_leaf", "dw_root"], include=mine, shots=0).requests()
    plain = {text for own in texts.values() for text in own}
    bare, shown = sent[: len(sent) // 2], sent[len(sent) // 2 :]
    assert all(text in plain and text.endswith("\nA:") for _, text in bare)
    form = re.compile(r"Choose what is right\.\n\n(Q: .+\nA: [a-z]+\n\n)+Q: .+\nA:")
    assert all(form.fullmatch(text) for _, text in shown)


def test_prompts_that_end_with_a_space_and_several_right_answers(tmp_path, base):
    """Target letters are those of half of the alphabet, and the first letter written counts."""
    letters = {"doc_to_target": "{{letters}}", "output_type": "generate_until"}
    rows = [{"question": row["question"], "letters": list("abcdefghijklm")} for row in quiz("leaf")]
    first = {"function": "regex", "regex_pattern": "([a-z])"}
    own_task(
        tmp_path, "dw_letters", rows[:9], rows[9:], **letters,
        doc_to_text="Q: {{question}}\nA: ", doc_to_choice=None, gen_prefix="It is ",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        filter_list=[{"name": "first", "filter": [first, {"function": "take_first"}]}],
    )  # fmt: skip
    names = ["zero_shot", "few_shot", "lora"]
    decided = dw.decide(
        study(tmp_path, base, "dw_letters", tmp_path, strategies=names), tmp_path / "r"
    )
    (plain,) = oracle(base, "dw_letters", tmp_path)
    assert_marked_alike(items(decided.folder, "zero_shot"), plain)
    assert 0 < sum(x.mark.correct for x in plain.items) < 9
    assert decided.verdict.score == "exact_match,first"
    assert all(r.status == "done" for r in decided.verdict.strategies)
    # Learnt with the space that a tokenizer gives to the answer, and with the first of its targets.
    row = world.read_lines(decided.folder / "dataset/train.jsonl")[0]["messages"]
    assert [m["role"] for m in row] == ["system", "text", "assistant"]
    assert row[1]["content"].endswith("It is") and row[2]["content"] == " a"


def with_marks(mine, marks):
    """Let a function of the task dw_leaf mark what was picked."""
    (mine / "own.py").write_text(
        "def marks(doc, results):\n"
        "    pick = max(range(len(results)), key=lambda n: results[n][0])\n"
        f"    return {marks}\n"
    )
    with (mine / "dw_leaf.yaml").open("a") as file:
        file.write("process_results: !function own.marks\n")


def test_marks_of_a_tasks_own_code_count(tmp_path, base, mine):
    """Its function gives half a point to a choice beside the right one."""
    with_marks(mine, "{'near': max(0.0, 1 - abs(pick - doc['answer']) / 2), 'acc': 0.0}")
    near = {"evaluate": {"score": "near"}}
    decided = dw.decide(
        study(tmp_path, base, "dw_leaf", mine, strategies=["zero_shot"], **near), tmp_path / "run"
    )
    ours = items(decided.folder, "zero_shot")
    assert_marked_alike(
        [{**x, "mark": [x["metrics"]["acc"]]} for x in ours], *oracle(base, "dw_leaf", mine)
    )
    marks = {x["mark"][0] for x in ours}
    assert decided.verdict.score == "near" and marks <= {0.0, 0.5, 1.0} and len(marks) > 1


def test_a_tasks_own_code_that_fails_on_an_answer_is_said_to_be_the_tasks(tmp_path, base, mine):
    """It marks the right answer, which is tried before the study, and no wrong one."""
    with_marks(mine, "{'acc': 1 / int(pick == doc['answer'])}")
    with pytest.raises(DataError, match=r"mark the answers.*division by zero"):
        dw.decide(
            study(tmp_path, base, "dw_leaf", mine, strategies=["zero_shot"]), tmp_path / "run"
        )


def test_changed_documents_are_changed_data(tmp_path, base, mine):
    file = study(tmp_path, base, "dw_leaf", mine)

    def hash_of(name):
        return prepare(read_study(file), tmp_path / name).hash

    first = hash_of("a")
    assert hash_of("b") == first
    own_task(mine, "dw_leaf", quiz("leaf")[:8], quiz("leaf")[9:])
    fewer = hash_of("c")
    own_task(mine, "dw_leaf", quiz("leaf")[:8], quiz("leaf")[9:], metadata={"version": 3.1})
    newer = hash_of("d")
    assert len({first, fewer, newer}) == 3


def test_an_interrupted_study_reads_its_answers_back(tmp_path, base, mine, monkeypatch):
    file = study(tmp_path, base, "dw_leaf", mine, strategies=["zero_shot", "lora"])
    first = dw.decide(file, tmp_path / "run").verdict
    (tmp_path / "run/verdict.json").unlink()
    monkeypatch.setattr(
        "domainwright.evaluate.lm_eval_exam.TaskExam.run", lambda *_, **__: pytest.fail("asked")
    )
    again = dw.decide(file, tmp_path / "run", resume=True).verdict
    assert [r.score for r in again.strategies] == [r.score for r in first.strategies]
    with pytest.raises(ConfigError, match="is about dw_leaf, a task of lm-eval"):
        dw.refine(tmp_path / "run", strategy="lora")


def test_what_leaks_or_has_no_right_choice_is_set_aside(tmp_path, base, mine):
    rows = quiz("leaf")
    asked = [*rows[:6], rows[0], {**rows[8], "answer": 7}]
    own_task(mine, "dw_leaf", asked, [rows[2], *rows[9:]])
    file = study(tmp_path, base, "dw_leaf", mine, strategies=["zero_shot"])
    data = dw.decide(file, tmp_path / "run").verdict.data
    assert data.leaks["same_content"] == 1 and data.train + data.development == 11
    # What lm-eval asks twice counts twice.
    assert data.test == 7
    assert data.set_aside == {"no_right_choice": 1, "leaks_into_test": 1}


def test_rows_of_the_user_are_learnt_where_the_task_has_none(tmp_path, base, mine):
    own_task(mine, "dw_leaf", quiz("leaf")[:9])
    file = study(tmp_path, base, "dw_leaf", mine, strategies=["zero_shot", "lora", "few_shot"])
    with pytest.raises(DataError, match="no documents besides those of its split 'test'"):
        dw.decide(file, tmp_path / "none")
    world.write_lines(tmp_path / "own.jsonl", quiz("root"))
    verdict = dw.decide(file, tmp_path / "run", overrides=["data.train=own.jsonl"]).verdict
    assert verdict.data.train + verdict.data.development == 20 and verdict.data.test == 9
    assert all(r.status == "done" for r in verdict.strategies)


def test_conversations_of_the_user_become_plain_text(tmp_path, base):
    file = study(tmp_path, base, "dw_written", strategies=["zero_shot", "lora"])
    world.write_lines(tmp_path / "own.jsonl", world.questions())
    folder = tmp_path / "run"
    dw.decide(file, folder, overrides=["data.train=own.jsonl"])
    rows = world.read_lines(folder / "dataset/train.jsonl")
    assert {tuple(m["role"] for m in row["messages"]) for row in rows} == {("text", "assistant")}
    said = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows}
    asked = {row["question"]: f" {row['answer']}" for row in world.questions()}
    assert said.items() <= asked.items() and len(said) > 40


@pytest.mark.parametrize(
    ("task", "overrides", "error", "words"),
    [
        ("dw_last_word", [], ConfigError, "dw_last_word is a loglikelihood task"),
        ("dw_text", [], ConfigError, "dw_text is a loglikelihood_rolling task"),
        ("dw_both", [], ConfigError, "is a loglikelihood task"),
        ("dw_choic", [], UnknownName, "use 'dw_choice'"),
        ("dw_choice", ["data.test=train.jsonl"], ConfigError, "the task says what is asked"),
        ("dw_choice", ["data.folds=5"], ConfigError, "data.folds and data.task are both set"),
        ("dw_written", ["evaluate.new_tokens=5"], ConfigError, "how long an answer may be"),
        ("dw_choice", ["train.head=true"], ConfigError, "which a head does not give"),
        ("dw_choice", ["data.augment={method: eda}"], ConfigError, "another form"),
        ("dw_choice", ["data.task=null"], ConfigError, "data.train names no file"),
    ],
)
def test_what_cannot_be_is_refused(task, overrides, error, words, tmp_path, base, monkeypatch):
    if error is UnknownName:
        index = __import__("lm_eval.tasks", fromlist=["TaskManager"]).TaskManager
        small = index(include_path=str(TASKS), include_defaults=False)
        monkeypatch.setattr("domainwright.evaluate.lm_eval_tasks._index", lambda *_: small)
    file = study(tmp_path, base, task)
    with pytest.raises(error, match=re.escape(words)):
        dw.decide(file, tmp_path / "run", overrides=overrides)


def test_without_lm_eval_the_error_says_what_to_install(tmp_path, base, monkeypatch):
    file = study(tmp_path, base, "dw_choice")
    monkeypatch.setattr("domainwright.evaluate.lm_eval_tasks.find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match=r"pip install 'domainwright\[lm-eval\]'"):
        dw.decide(file, tmp_path / "run")


def test_paths_are_relative_to_the_study_file(tmp_path, base, mine):
    file = study(tmp_path, base, "dw_leaf", "mine")
    assert read_study(file).data.include == str(mine)
    by_file = read_study(file, ["data.task=mine/dw_leaf.yaml", "data.include=null"])
    assert by_file.data.task == str(mine / "dw_leaf.yaml")
    assert dw.plan(file, overrides=["data.task=mine/dw_leaf.yaml"]).items == 9
