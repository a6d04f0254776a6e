"""The study file: what is read, what is refused, and in which words."""

import dataclasses
import pickle

import pytest
import yaml

import domainwright as dw
from domainwright.core.errors import ConfigError, DomainwrightError
from domainwright.studies.api import Decided, decide
from domainwright.studies.study import (
    StudySettings,
    read_domain,
    read_study,
    write_resolved,
)
from tests.studies.verdicts import verdict


def written(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "base: smollm2-135m\ndata: {train: a.jsonl}\n"


def refused(tmp_path, text, *overrides):
    with pytest.raises(DomainwrightError) as caught:
        read_study(written(tmp_path, text), overrides)
    assert caught.value.exit_code == 2
    return caught.value.cause.replace(f"{tmp_path}/", ""), caught.value.fix


EXACT = [
    (
        "data: {train: a.jsonl}",
        "study.yaml lacks the setting 'base'.",
        "add a line `base: …`.",
    ),
    (
        "base: b",
        "study.yaml lacks the setting 'data'.",
        "add a line `data: …`.",
    ),
    (
        GOOD + "strategys: [lora]",
        "study.yaml has no setting 'strategys'.",
        "write 'strategies'.",
    ),
    (
        GOOD + "train: {lerning_rate: 0.1}",
        "study.yaml train has no setting 'lerning_rate'.",
        "write 'learning_rate'.",
    ),
    (
        GOOD + "strategies: [lorra]",
        "There is no strategy called 'lorra'.",
        "use 'lora'.",
    ),
    (
        GOOD + "strategies: [lora, rag, lora]",
        "strategies names one twice: lora, rag, lora.",
        "remove the repeated name.",
    ),
    (
        GOOD + "strategies: [few_shot+rag]",
        "'few_shot+rag' is no method with a prompting strategy.",
        "write one of each, such as lora+rag.",
    ),
    (
        GOOD + "strategies: [auto, lora]",
        "strategies mixes auto with names: auto, lora.",
        "write auto alone, or list the names.",
    ),
    (
        GOOD + "domain: medicine",
        "There is no domain called 'medicine'.",
        "use 'medical'.",
    ),
    (
        GOOD + "dtype: int4",
        "study.yaml dtype is 'int4'.",
        "use one of: auto, float32, bfloat16, float16.",
    ),
    (
        GOOD + "seed: 1\nseed: 2\n",
        "study.yaml is no valid YAML: the key 'seed' stands twice in line 4, column 1.",
        "correct the line named; values with `:` or `#` need quotes.",
    ),
    (
        "- a\n- b\n",
        "study.yaml holds no settings.",
        "write `name: value` lines there.",
    ),
    (
        GOOD + "budget: {minutes: 0}",
        "budget.minutes is 0.0.",
        "give a number above 0.",
    ),
    (
        GOOD + "evaluate: {items: 0}",
        "evaluate.items is 0.",
        "give a whole number from 1.",
    ),
    (
        "base: b\ndata: {train: a, test_share: 1.5}",
        "data.test_share is 1.5, outside (0, 1).",
        "give a share of the rows such as 0.2.",
    ),
    (
        "base: b\ndata: {train: {format: messages}}",
        "data has an entry without a path: {'format': 'messages'}.",
        "write {path: FILE, format: NAME}.",
    ),
]


@pytest.mark.parametrize(("text", "cause", "fix"), EXACT, ids=[e[1][:40] for e in EXACT])
def test_says_what_is_wrong_and_what_to_write(tmp_path, text, cause, fix):
    assert refused(tmp_path, text) == (cause, fix)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "base: [unclosed",
        "base: a: b",
        "\tbase: x",
        "base: b\ndata: 5",
        "base: b\ndata: {train: []}",
        "base: b\ndata: {train: [5]}",
        "base: 12\ndata: {train: a}",
        "base: ''\ndata: {train: a}",
        GOOD + "budget: 30",
        GOOD + "budget: {minutes: .nan}",
        GOOD + "budget: {minutes: .inf}",
        GOOD + "budget: {minutes: -3}",
        GOOD + "budget: {minutes: 10 minutes}",
        GOOD + "budget: {memory_gb: 0}",
        GOOD + "evaluate: {new_tokens: -1}",
        GOOD + "evaluate: {difference: 5}",
        GOOD + "evaluate: {items: 1.5}",
        GOOD + "evaluate: {items: true}",
        GOOD + "train: {steps: -1}",
        GOOD + "train: {schedule: stairs}",
        GOOD + "train: {learning_rate: 1e-3}",
        GOOD + "prompting: {passages: 0}",
        GOOD + "seed: zero",
        GOOD + "device: tpu",
        GOOD + "name: ../elsewhere",
        GOOD + "name: '..'",
        GOOD + "name: ''",
        GOOD + "strategies: [lora+]",
        GOOD + "strategies: [lora+rag+few_shot]",
        GOOD + "strategies: ['']",
        GOOD + "methods: {lorra: {}}",
        GOOD + "methods: {lora: {ranc: 3}}",
        GOOD + "methods: {lora: 3}",
        GOOD + "methods: [lora]",
        GOOD + "seed: 2024-13-45",
        GOOD + "allow_pickle: maybe",
        GOOD + "no: 1",
    ],
)
def test_every_fault_is_a_setting_error_with_a_fix(tmp_path, text):
    cause, fix = refused(tmp_path, text)
    assert len(cause) > 10 and "\n" not in cause
    assert len(fix) > 5 and fix.endswith((".", "…`."))


def test_a_missing_file_and_a_folder_and_other_bytes(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="There is no study file") as caught:
            read_study(path)
        assert caught.value.fix == "give the path of a YAML file; `dw decide --help` shows one."
    (tmp_path / "study.yaml").write_bytes(b"base: \xff\xfe\n")
    with pytest.raises(ConfigError, match="is no UTF-8 text"):
        read_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("override", "cause"),
    [
        ("train.steps", "--set 'train.steps' has no value."),
        ("=5", "--set '=5' has no value."),
        ("base.name=x", "--set base.name: 'base' holds a value, not settings."),
        ("train.steps=[1", "--set train.steps is no valid YAML"),
        ("train.stepz=5", "study.yaml train has no setting 'stepz'."),
        ("train.steps=many", "study.yaml train steps is 'many'."),
        ("bugdet.minutes=5", "study.yaml has no setting 'bugdet'."),
        ("train.=5", "study.yaml train has no setting ''."),
    ],
)
def test_override_errors(tmp_path, override, cause):
    assert refused(tmp_path, GOOD, override)[0].startswith(cause)


def test_overrides_win_and_may_make_sections(tmp_path):
    found = read_study(
        written(tmp_path, GOOD + "seed: 1\n"),
        ["seed=2", "train.steps=7", "strategies=[lora, lora+rag]", "methods.lora={rank: 4}"],
    )
    assert (found.seed, found.train.steps) == (2, 7)
    assert found.strategies == ("lora", "lora+rag") and found.methods == {"lora": {"rank": 4}}


def test_paths_belong_to_the_study_file(tmp_path, monkeypatch):
    text = (
        "base: local\n"
        "data: {train: [a.jsonl, {path: sub/b.csv, format: alpaca}], test: ../t.jsonl,"
        " documents: /abs/docs}\n"
        "evaluate: {retention: r.jsonl}\n"
    )
    (tmp_path / "local").mkdir()
    path = written(tmp_path, text)
    monkeypatch.chdir("/")
    found = read_study(path)
    assert found.base == str(tmp_path / "local")
    assert found.data.train == (
        str(tmp_path / "a.jsonl"),
        {"path": str(tmp_path / "sub/b.csv"), "format": "alpaca"},
    )
    assert found.data.test == (str(tmp_path / "../t.jsonl"),)
    assert found.data.documents == ("/abs/docs",)
    assert found.evaluate.retention == (str(tmp_path / "r.jsonl"),)


def test_the_name_comes_from_the_file_or_its_folder(tmp_path):
    assert read_study(written(tmp_path, GOOD)).name == tmp_path.name
    other = tmp_path / "contracts.yaml"
    other.write_text(GOOD)
    assert read_study(other).name == "contracts"
    assert read_study(written(tmp_path, GOOD + "name: Own name")).name == "Own name"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "study.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert read_study(tmp_path / "study.yaml").base == "smollm2-135m"


def test_a_domain_brings_its_instruction_and_an_own_one_wins(tmp_path):
    medical = read_domain("medical")["instruction"]
    assert read_study(written(tmp_path, GOOD)).prompting.instruction is None
    brought = read_study(written(tmp_path, GOOD + "domain: medical"))
    assert brought.prompting.instruction == medical
    own = GOOD + "domain: medical\nprompting: {instruction: Be brief.}"
    assert read_study(written(tmp_path, own)).prompting.instruction == "Be brief."


RICH = """
base: smollm2-135m
name: "Größe: 1 #2"
domain: legal
data:
  train: [a.jsonl, {path: b.csv, format: alpaca, columns: {question: Frage}, share: 0.25}]
  test: t.jsonl
  split_by_date: true
budget: {minutes: 2.5, memory_gb: 3}
strategies: [zero_shot, lora+rag]
evaluate: {items: 7, difference: 0.1, retention: [r.jsonl]}
train: {steps: 3, learning_rate: 1.0e-3}
methods: {lora: {rank: 4}}
seed: 9
"""


@pytest.mark.parametrize("text", [GOOD, RICH], ids=["short", "rich"])
def test_a_resolved_study_reads_back_equal(tmp_path, text):
    first = read_study(written(tmp_path, text))
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "study.yaml"
    write_resolved(first, copy)
    assert read_study(copy) == first
    write_resolved(read_study(copy), tmp_path / "second.yaml")
    assert (tmp_path / "second.yaml").read_bytes() == copy.read_bytes()
    everything = yaml.safe_load(copy.read_text())
    assert set(everything) == {f.name for f in dataclasses.fields(StudySettings)}


def test_settings_in_hand_take_no_overrides(tmp_path):
    study = read_study(written(tmp_path, GOOD))
    with pytest.raises(ConfigError, match="overrides are for study files"):
        decide(study, tmp_path / "run", overrides=["seed=1"])


def test_a_decided_study_can_be_copied_to_another_process(tmp_path):
    decided = Decided(verdict(), tmp_path)
    again = pickle.loads(pickle.dumps(decided))
    assert again.recommendation == decided.verdict.recommendation and again.folder == tmp_path
    with pytest.raises(AttributeError, match="nonsense"):
        decided.nonsense  # noqa: B018


def test_the_package_reads_studies(tmp_path):
    assert dw.read_study(written(tmp_path, GOOD)).base == "smollm2-135m"
