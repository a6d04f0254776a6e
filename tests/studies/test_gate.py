"""The gate: who is near the training questions, and what it is fitted on."""

import json

import numpy as np
import pytest

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import ConfigError, DataError, RunFailed
from domainwright.core.progress import quiet
from domainwright.core.records import Text
from domainwright.curate.split import Split
from domainwright.evaluate.retained import shipped_suite
from domainwright.models import embedded
from domainwright.prompting._sources import question_of
from domainwright.studies import _gate
from domainwright.studies._gate import gate_of, input_of, load_gate, nearness, threshold
from domainwright.studies.data import StudyData, prepare
from domainwright.studies.study import GateSettings, read_study
from tests.studies import world
from tests.studies.words import stand_in
from tests.tiny import chat


@pytest.fixture
def words(monkeypatch):
    return stand_in(monkeypatch)


def unit(rng, shape):
    found = rng.normal(size=shape)
    return (found / np.linalg.norm(found, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("nearest", [1, 3, 40])
def test_nearness_is_the_mean_of_the_largest_cosines(nearest):
    rng = np.random.default_rng(0)
    vectors, one = unit(rng, (12, 7)), unit(rng, 7)
    cosines = sorted(sum(float(a) * float(b) for a, b in zip(v, one)) for v in vectors)  # noqa: B905
    want = cosines[-nearest:]
    assert nearness(one, vectors, nearest) == pytest.approx(sum(want) / len(want), abs=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("count", [1, 6, 20, 101])
def test_the_threshold_is_the_largest_that_lets_the_share_pass(count, share):
    found = np.random.default_rng(count).permutation(count) / 7
    least = threshold(found.tolist(), share)
    assert (found >= least).mean() >= share - 1e-12
    assert least in found.tolist()
    # Any larger value would let fewer pass than asked.
    assert (found > least).mean() < share


def test_nineteen_of_twenty_are_95_percent():
    assert threshold([float(n) for n in range(20)], 0.95) == 1.0


def study_and_data(tmp_path, **changes):
    study = read_study(world.study_file(tmp_path, world.save_base(tmp_path / "base"), **changes))
    return study, prepare(study, tmp_path / "run")


def test_the_gate_reads_training_and_development_rows_alone(tmp_path, words):
    study, data = study_and_data(tmp_path, gate={"share": 0.5, "nearest": 2})
    gate = gate_of(study, data, tmp_path / "run", quiet)()
    train = [question_of(row) for row in data.split.train]
    development = [question_of(row) for row in data.split.dev]
    assert sorted(words.read) == sorted([*train, *development])
    near = [nearness(words.encode([q])[0], words.encode(train), 2) for q in development]
    assert gate.threshold == threshold(near, 0.5)
    assert gate.development == len(development)
    assert gate.development_passed == sum(gate.passes(q) for q in development)
    assert gate.development_passed >= 0.5 * len(development)
    assert gate.nearness("What colour is basil?") == 0.75
    assert not gate.passes("Tomorrow we sail")
    manifest = read_manifest(tmp_path / "run/gate", "gate")
    assert manifest["parents"]["dataset"] == data.hash
    assert manifest["parents"]["encoder"] == "words"
    assert manifest["facts"]["rows"] == len(train)


def test_a_gate_is_fitted_once(tmp_path, words):
    study, data = study_and_data(tmp_path)
    first = gate_of(study, data, tmp_path / "run", quiet)
    assert first() is first()
    read, seconds = len(words.read), _gate.gate_seconds(tmp_path / "run")
    again = gate_of(study, data, tmp_path / "run", quiet)()
    assert len(words.read) == read and _gate.gate_seconds(tmp_path / "run") == seconds
    assert again.hash == first().hash and again.threshold == first().threshold
    assert np.array_equal(again.vectors_NE, first().vectors_NE)


def test_another_setting_or_a_damaged_file_is_fitted_anew(tmp_path, words):
    study, data = study_and_data(tmp_path)
    first = gate_of(study, data, tmp_path / "run", quiet)()
    (tmp_path / "run/gate/gate.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="was altered"):
        load_gate(tmp_path / "run/gate")
    assert gate_of(study, data, tmp_path / "run", quiet)().hash == first.hash
    (tmp_path / "other").mkdir()
    other = read_study(tmp_path / "study.yaml", ["gate.nearest=1"])
    assert gate_of(other, data, tmp_path / "run", quiet)().hash != first.hash


def test_a_gate_of_another_encoder_is_refused(tmp_path, words, monkeypatch):
    study, data = study_and_data(tmp_path)
    gate_of(study, data, tmp_path / "run", quiet)()
    monkeypatch.setattr(_gate, "encoder_hash", lambda: "another")
    with pytest.raises(DataError, match="another sentence encoder"):
        load_gate(tmp_path / "run/gate")


def test_made_rows_and_most_rows_are_left_out(tmp_path, words, monkeypatch):
    study, data = study_and_data(tmp_path, data={"augment": {"method": "eda", "copies": 1}})
    made = [r for r in data.split.train if r.provenance]
    assert made
    monkeypatch.setattr(_gate, "MOST_ROWS", 9)
    gate = gate_of(study, data, tmp_path / "run", quiet)()
    assert len(gate.vectors_NE) == 9
    assert not {question_of(r) for r in made} & set(words.read[:9])


def test_no_development_rows_no_gate(tmp_path, words):
    study, _ = study_and_data(tmp_path)
    split = Split(train=(chat("a", "b"),), dev=(), test=(), merged_groups=(), facts={})
    bare = StudyData(
        split=split, documents=(), task="answers", hash="x", sources=[], set_aside=[],
        leaks={}, documents_overlap=0,
    )  # fmt: skip
    with pytest.raises(RunFailed, match=r"there are 1 and 0[^$]*fix: raise data\.development"):
        gate_of(study, bare, tmp_path / "empty", quiet)()


def test_a_text_is_read_as_a_whole():
    text = Text(id="t", group="t", file="f", line=1, text="All of it.")
    assert input_of(text) == "All of it."
    assert input_of(chat("Why?", "So.")) == "Why?"


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="outside"):
        GateSettings(share=0.0)
    with pytest.raises(ConfigError, match="whole number"):
        GateSettings(nearest=0)


@pytest.mark.embedded
@pytest.mark.skipif(
    embedded.package_folder(embedded.ENCODER_PACKAGE) is None,
    reason="the package of the embedded encoder is not installed (`make setup`)",
)
def test_the_encoder_tells_a_domain_from_general_questions(tmp_path):
    # Thresholds of two or three groups are a matter of luck.
    parts = {"test_share": 0.3, "development_share": 0.35}
    study, data = study_and_data(tmp_path, data=parts)
    gate = gate_of(study, data, tmp_path / "run", quiet)()
    test = [question_of(row) for row in data.split.test]
    general = [question_of(row) for row in shipped_suite().choices[:30]]
    assert np.mean([gate.passes(x) for x in test]) >= 0.7
    assert np.mean([gate.passes(x) for x in general]) <= 0.1
    assert json.loads((tmp_path / "run/gate/manifest.json").read_text())["facts"]["rows"] == len(
        gate.vectors_NE
    )
