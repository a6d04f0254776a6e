"""METHOD+tasks: an adapter for every task, each row answered by its own."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from domainwright.cli.main import app
from domainwright.core.errors import ConfigError, DataError, UnknownName
from domainwright.maths.bootstrap import interval
from domainwright.studies._tasked import gains
from domainwright.studies.api import decide, load_run, plan
from domainwright.studies.export import export
from domainwright.studies.refine.rounds import refine
from domainwright.studies.score import score_file
from domainwright.studies.study import read_study
from tests.studies import world
from tests.studies.test_crossfit_study import item

pytestmark = pytest.mark.usefixtures("quick")


def tasks_file(folder, base, **changes):
    """Thirty questions on plants, thirty on their sellers, in two files."""
    rows = world.questions()
    data = {"train": [{"path": "train.jsonl", "task": "plants"}, "more.jsonl"]}
    defaults = {
        "strategies": ["zero_shot", "lora", "lora+tasks"],
        "evaluate": {"items": None},
        "data": {**data, "test_share": 0.3, **changes.pop("data", {})},
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = world.study_file(folder, base, rows[:30], **world.merged(defaults, changes))
    world.write_lines(folder / "more.jsonl", rows[30:])
    return file


@pytest.fixture
def made(tmp_path, base):
    return decide(tasks_file(tmp_path, base, seeds=2), tmp_path / "run")


def items_of(folder, name, part="scorecard"):
    return world.read_lines(folder / "trials" / name / part / "items.jsonl")


def weights(place):
    return (place / "adapter" / "adapter_model.safetensors").read_bytes()


def test_every_task_has_its_own_adapter_and_answers_with_it(made, tmp_path):
    run = made.folder
    trial = run / "trials" / "lora"
    assert len({weights(p) for p in (trial, trial / "tasks/plants", trial / "tasks/more")}) == 3
    assert weights(trial / "seed-1/tasks/plants") != weights(trial / "tasks/plants")
    result = next(r for r in made.verdict.strategies if r.name == "lora+tasks")
    assert result.adapter == "trials/lora/adapter"
    assert result.adapters == {t: f"trials/lora/tasks/{t}/adapter" for t in ("more", "plants")}
    asked = items_of(run, "lora+tasks")
    assert [x["id"] for x in asked] == [x["id"] for x in items_of(run, "lora")]
    own = {t: items_of(run, "lora+tasks", f"scorecard-{t}") for t in ("plants", "more")}
    assert {x["id"]: x["reply"] for x in asked} == {
        x["id"]: x["reply"] for part in own.values() for x in part
    }
    manifest = json.loads((trial / "tasks/more/adapter/manifest.json").read_text())
    assert manifest["parents"]["begin"]
    # Whatever answers: the reply of a row is the one of its task's adapter, asked again.
    one = own["more"][0]
    loaded = load_run(run, "lora+tasks").for_task("more")
    assert loaded.chat(one["question"], new_tokens=4) == one["reply"]


def test_a_task_moves_no_other_tasks_adapter(made, tmp_path, base):
    """The same study with other rows of one task: the other's adapter, begun from nothing."""
    files = [
        tasks_file(tmp_path / name, base, apart={"begin": "base"}, strategies=["lora+tasks"])
        for name in ("a", "b")
    ]
    rows = world.read_lines(tmp_path / "b" / "more.jsonl")
    for row in rows:
        row["answer"] = f"{row['answer']} and more of it"
    world.write_lines(tmp_path / "b" / "more.jsonl", rows)
    first, second = (decide(file, file.parent / "run").folder for file in files)
    place = "trials/lora/tasks"
    assert weights(first / place / "plants") == weights(second / place / "plants")
    assert weights(first / place / "more") != weights(second / place / "more")
    assert not (first / "trials/lora/adapter").exists(), "no adapter of all tasks is made"
    loaded = load_run(first, "lora+tasks")
    assert loaded.adapter is None and loaded.reply("x", new_tokens=2).given_by == "base"


def test_the_verdict_says_task_by_task_what_separate_adapters_bring(made):
    result = next(r for r in made.verdict.strategies if r.name == "lora+tasks")
    apart, shared = (
        {x["id"]: x for x in items_of(made.folder, name)} for name in ("lora+tasks", "lora")
    )
    seeds = [
        [
            {x["id"]: x["mark"][0] for x in items_of(made.folder, name, part)}
            for part in ("scorecard", "seed-1/scorecard")
        ]
        for name in ("lora+tasks", "lora")
    ]
    here = [i for i in apart if "-" in i and i in _of(made.folder, "more")]
    values = np.array([[own[i] - all_[i] for i in here] for own, all_ in zip(*seeds, strict=True)])
    gain = next(x for x in result.apart if x.task == "more")
    assert gain.gain == interval(values, [shared[i]["group"] for i in here])
    assert gain.items == len(here)
    said = " ".join(made.verdict.recommendation.reasons)
    assert "Against the adapter of all tasks, task by task: more " in said
    lost = result.retention.nats_change.mean
    alone = [
        json.loads((made.folder / "trials/lora/tasks" / t / "training.json").read_text())
        for t in ("more", "plants")
    ]
    assert result.training.steps == sum(x["steps"] for x in alone)
    assert np.isfinite(lost)
    cards = [made.folder / f"trials/lora/tasks/{t}/adapter/README.md" for t in ("more", "plants")]
    assert "answer the task more alone; plants have their own" in cards[0].read_text()
    assert "--strategy lora+tasks --task plants" in cards[1].read_text()


def _of(folder, task):
    rows = world.read_lines(folder / "dataset" / "test.jsonl")
    return {r["id"] for r in rows if (r["file"].endswith("more.jsonl")) == (task == "more")}


def test_a_multitask_prompt_learns_every_task_apart_first(tmp_path, base):
    """The source stage with a share for each task, then each task from its own."""
    settings = {
        "strategies": ["zero_shot", "multitask_prompt+tasks"],
        "methods": {"multitask_prompt": {"rows": 4}},
        "train": {"learning_rate": 3e-2},
    }
    run = decide(tasks_file(tmp_path, base, **settings), tmp_path / "run").folder
    trial = run / "trials/multitask_prompt"
    first = trial / "side-by-side/adapter"
    assert json.loads((first / "adapter_config.json").read_text())["num_tasks"] == 2
    source = load_file(first / "adapter_model.safetensors")
    digest = json.loads((first / "manifest.json").read_text())["hash"]
    for n, task in enumerate(("more", "plants")):
        place = trial / "tasks" / task
        manifest = json.loads((place / "adapter/manifest.json").read_text())
        assert manifest["parents"]["begin"] == digest
        own = load_file(place / "adapter/adapter_model.safetensors")
        assert own["prefix_task_cols"].shape[0] == 1
        # It went on from its own share, which is nearer than the other task's.
        apart = [(own["prefix_task_cols"][0] - x).norm() for x in source["prefix_task_cols"]]
        assert apart[n] < apart[1 - n]
    assert not (trial / "adapter").exists(), "no adapter of all tasks is made"
    one = items_of(run, "multitask_prompt+tasks", "scorecard-more")[0]
    loaded = load_run(run, "multitask_prompt+tasks").for_task("more")
    assert loaded.chat(one["question"], new_tokens=4) == one["reply"]


def test_every_adapter_is_trained_once(tmp_path, base):
    begun = []

    def listen(step):
        if step.stage == "train lora" and step.done == 1:
            begun.append(step.total)

    decide(tasks_file(tmp_path, base, strategies=["lora+tasks"]), tmp_path / "run", listen=listen)
    # Of 42 training rows or so, the one of all takes 6 steps and each task its share of them.
    assert begun[0] == 6 and len(begun) == 3 and abs(sum(begun[1:]) - 6) <= 1


def test_who_answers_is_said_in_chat_evaluation_and_export(made, tmp_path):
    runner = CliRunner()
    asked = ["chat", str(made.folder), "--strategy", "lora+tasks", "-q", "hm", "--new-tokens", "2"]
    told = runner.invoke(app, [*asked, "--task", "plants"])
    assert told.exit_code == 0 and "answered by the adapter for task plants" in told.output
    none = runner.invoke(app, asked)
    assert "for no task; --task has more, plants" in none.output
    as_json = runner.invoke(app, [*asked, "--task", "more", "--json"])
    assert json.loads(as_json.stdout)["task"] == "more"
    run = load_run(made.folder, "lora+tasks")
    with pytest.raises(UnknownName, match="no adapter for a task 'cats'"):
        run.for_task("cats")
    with pytest.raises(UnknownName, match="it has one for all"):
        load_run(made.folder, "lora").for_task("more")


def test_an_export_holds_one_task(tmp_path, base):
    folder = decide(
        tasks_file(tmp_path, base, strategies=["zero_shot", "lora+tasks"]), tmp_path / "run"
    ).folder
    with pytest.raises(ConfigError, match="has an adapter for every task"):
        export(folder, tmp_path / "out", "peft")
    export(folder, tmp_path / "out", "peft", task="more")
    exported = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert exported == weights(folder / "trials/lora/tasks/more")
    with pytest.raises(ConfigError, match="a round refines one"):
        refine(folder, strategy="lora+tasks")


def test_a_file_of_a_tasks_name_is_answered_by_its_adapter(tmp_path, base):
    folder = decide(
        tasks_file(tmp_path, base, strategies=["zero_shot", "lora+tasks"]), tmp_path / "run"
    ).folder
    verdict = json.loads((folder / "verdict.json").read_text())
    verdict["recommendation"]["strategy"] = "lora+tasks"
    (folder / "verdict.json").write_text(json.dumps(verdict))
    rows = world.read_lines(tmp_path / "more.jsonl")
    losses = {
        name: score_file(
            str(folder), world.write_lines(tmp_path / f"{name}.jsonl", rows), items=3, new_tokens=4
        )["metrics"]["answer_loss"]
        for name in ("more", "plants", "others")
    }
    assert len(set(losses.values())) == 3
    assert losses["more"] < losses["plants"], "the adapter that learned these rows"


def test_a_gain_is_paired_within_the_task():
    rng = np.random.default_rng(1)
    task_of = {str(n): "ab"[n % 2] for n in range(24)} | {"24": "c"}
    shared = [item(n, float(v)) for n, v in enumerate(rng.random(25))]
    own = [item(n, x.mark.correct + (0.2 if n % 2 else -0.1)) for n, x in enumerate(shared)]
    found = gains(own, shared, task_of, ["a", "b", "c"])
    assert [(x.task, x.items) for x in found] == [("a", 12), ("b", 12)], "one item says nothing"
    assert [x.gain.mean for x in found] == [pytest.approx(-0.1), pytest.approx(0.2)]
    assert found[0].gain.high < 0 < found[1].gain.low


def test_folds_ask_every_task_out_of_fold(tmp_path, base):
    file = tasks_file(tmp_path, base, data={"folds": 2}, strategies=["zero_shot", "lora+tasks"],
                      seeds=1)  # fmt: skip
    decided = decide(file, tmp_path / "run")
    result = next(r for r in decided.verdict.strategies if r.name == "lora+tasks")
    assert result.status == "done" and decided.verdict.data.tested == 60
    assert {x["fold"] for x in items_of(decided.folder, "lora+tasks")} == {"1/2", "2/2"}
    assert (decided.folder / "folds/2/trials/lora/tasks/more/adapter").is_dir()


def test_each_task_may_have_labels_of_its_own(tmp_path, base):
    """Two files with other choices: one head for both is refused, one for each is trained."""
    rows = world.choices()
    for row in rows[30:]:
        row["choices"] = ["near", "far", "nowhere"]
    for number, row in enumerate(rows):
        first = ["red", "blue", "green"] if number < 30 else row["choices"]
        row["choices"], row["answer"] = first, number % 3
    changes = {
        "train": {"head": True, "steps": 8, "learning_rate": 0.02},
        "apart": {"begin": "base"},
        "strategies": ["zero_shot", "lora+tasks"],
    }
    file = tasks_file(tmp_path, base, **changes)
    world.write_lines(tmp_path / "train.jsonl", rows[:30])
    world.write_lines(tmp_path / "more.jsonl", rows[30:])
    decided = decide(file, tmp_path / "run")
    result = next(r for r in decided.verdict.strategies if r.name == "lora+tasks")
    assert result.status == "done", result.reason
    labels = [
        json.loads((decided.folder / place / "domainwright.json").read_text())["head"]["labels"]
        for place in result.adapters.values()
    ]
    assert labels == [["far", "near", "nowhere"], ["blue", "green", "red"]]
    with pytest.raises(ConfigError, match="2 sets of choices"):
        decide(tasks_file_again(file, "lora"), tmp_path / "one")


def tasks_file_again(file, strategy):
    text = file.read_text().replace("lora+tasks", strategy)
    file.write_text(text)
    return file


def test_the_plan_counts_the_trainings_of_the_tasks(tmp_path, base):
    found = {s.name: s for s in plan(tasks_file(tmp_path, base)).strategies}
    assert found["lora+tasks"].train_minutes == pytest.approx(found["lora"].train_minutes)
    assert found["lora+tasks"].check_minutes == pytest.approx(2 * found["lora"].check_minutes)
    alone = plan(tasks_file(tmp_path / "b", base, strategies=["lora+tasks"])).strategies[-1]
    assert alone.train_minutes == pytest.approx(2 * alone.run.train_seconds / 60)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rag+tasks", "nothing to train for each task"),
        ("lora+tasks+gated", "does not say tasks once and last, or is gated too"),
        ("lora+tasks+rag", "does not say tasks once and last"),
        ("lora+task", "There is no strategy called 'task'"),
    ],
)
def test_names_that_say_nothing_are_refused(tmp_path, base, name, said):
    with pytest.raises(ConfigError, match=said):
        read_study(world.study_file(tmp_path, base, strategies=[name]))


def test_one_task_is_refused(tmp_path, base):
    file = world.study_file(tmp_path, base, strategies=["lora+tasks"])
    with pytest.raises(DataError, match="the training rows are of one task, train"):
        decide(file, tmp_path / "run")
