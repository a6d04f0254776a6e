"""Trackers hear what a study measures, and never cost it anything."""

import json
import subprocess
import sys
import time
import warnings

import pytest

from domainwright.core.errors import CapabilityError, ConfigError, UnknownName
from domainwright.studies import tracking
from domainwright.studies.api import decide, train_method
from domainwright.studies.trackers import TRACKERS
from domainwright.train import schedule
from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")
SERVERS = (
    *("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE", "WANDB_MODE", "WANDB_PROJECT"),
    "TRACKIO_SPACE_ID",
)
NAMES = ("mlflow", "optuna", "tensorboard", "trackio", "wandb")


class Heard:
    """A tracker that notes what it is told; `broken` names what it fails at."""

    libraries = ()
    broken: str
    every: list["Heard"]

    def __init__(self, name, folder, known):
        self.check("open")
        self.name, self.folder, self.known, self.told = name, folder, known, []
        self.identity = known or f"run-{len(self.every)}"
        self.every.append(self)

    def check(self, what):
        if what == self.broken:
            raise OSError(f"no room to {what}\nat all")

    def __getattr__(self, what):
        if what not in ("parameters", "metrics", "result", "files", "close"):
            raise AttributeError(what)

        def tell(*words):
            self.check(what)
            self.told.append((what, *words))

        return tell

    def all(self, what):
        return [words for first, *words in self.told if first == what]


@pytest.fixture
def heard(monkeypatch):
    """The tracker "tensorboard" is one that only listens."""
    TRACKERS.get("tensorboard")
    kind = type("Heard", (Heard,), {"every": [], "broken": ""})
    monkeypatch.setitem(TRACKERS._found, "tensorboard", kind)
    monkeypatch.setattr(tracking, "EVERY_S", 0.0)
    return kind


def test_every_tracker_has_the_same_shape():
    assert tuple(TRACKERS.names()) == NAMES
    for name in NAMES:
        kind = TRACKERS.get(name)
        assert kind.libraries and all(isinstance(x, str) for x in kind.libraries)
        for what in ("parameters", "metrics", "result", "files", "close"):
            assert callable(getattr(kind, what))


def test_every_tracker_is_an_extra_of_its_name():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for name in NAMES:
        wanted = project["optional-dependencies"][name]
        assert len(wanted) >= len(TRACKERS.get(name).libraries)


def test_nothing_is_opened_unless_it_is_named(base, tmp_path):
    check = (
        f"import sys; from domainwright.studies.study import read_study;"
        f"read_study({str(world.study_file(tmp_path, base))!r});"
        f"print([m for m in {NAMES!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
    decide(world.study_file(tmp_path, base, strategies=["zero_shot"]), tmp_path / "run")
    assert not (tmp_path / "run/tracking").exists()


def test_a_tracker_is_told_the_whole_study(heard, base, tmp_path):
    study = world.study_file(tmp_path, base, track="tensorboard", strategies=["lora"])
    found = decide(study, tmp_path / "run")
    (one,) = heard.every
    ((parameters,),) = one.all("parameters")
    assert parameters["train.steps"] == "6" and parameters["strategies"] == '["lora"]'
    lines = [line for run, new in one.all("metrics") for line in new if run == "lora"]
    assert [step for step, _ in lines] == list(range(7))
    assert "learning_rate" not in lines[0][1] and lines[0][1]["general_kl"] == 0.0
    for step, values in lines[1:]:
        assert values["learning_rate"] == 0.01 * schedule.factor("linear", step - 1, 6, 0.05, 0.2)
        assert values["loss"] > 0
    assert "development_loss" in lines[-1][1] and "general_kl" in lines[-1][1]
    results = dict(one.all("result"))
    assert set(results) == {"zero_shot", "lora"}
    assert results["lora"]["score"] == found.verdict.strategies[1].score.mean
    assert "recommended" not in results["lora"]
    ((paths, sentence),) = one.all("files")
    assert [p.name for p in paths] == ["verdict.json", "report.html"]
    assert all(p.is_file() for p in paths) and sentence == found.verdict.recommendation.sentence
    assert one.all("close") == [[True]]


def test_metrics_come_while_it_trains(heard, base, tmp_path):
    study = world.study_file(tmp_path, base, track=["tensorboard"])
    told = []

    def listen(step):
        # A checkpoint every two steps brings the lines up to it; they are told by another thread.
        for _ in range(500 if step.stage == "train lora" and step.done == 6 else 0):
            told.append(sum(len(new) for _, new in heard.every[0].all("metrics")))
            if told[-1] >= 4:
                break
            time.sleep(0.01)

    decide(study, tmp_path / "run", listen=listen)
    assert told[-1] >= 4


def test_a_single_run_is_tracked_too(heard, base, tmp_path):
    study = world.study_file(tmp_path, base, track=["tensorboard"])
    training = train_method(study, "lora", tmp_path / "run")
    (one,) = heard.every
    assert [step for run, new in one.all("metrics") for step, _ in new] == list(range(7))
    ((name, values),) = one.all("result")
    assert name == "lora" and values["best_step"] == training.best_step
    ((paths, _),) = one.all("files")
    assert paths == [tmp_path / "run/training.json"]


def test_a_resumed_study_goes_on_in_its_run_and_repeats_no_line(heard, base, tmp_path):
    study = world.study_file(tmp_path, base, track=["tensorboard"])

    def interrupt(step):
        if step.stage == "train lora" and step.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide(study, tmp_path / "run", listen=interrupt)
    decide(study, tmp_path / "run", resume=True)
    first, second = heard.every
    assert first.all("close") == [[False]] and second.all("close") == [[True]]
    assert second.known == first.identity and not second.all("parameters")
    steps = [s for one in (first, second) for _, new in one.all("metrics") for s, _ in new]
    assert steps == list(range(7))


def test_trackers_may_change_on_resume(heard, base, tmp_path):
    study = world.study_file(tmp_path, base, strategies=["zero_shot"])
    decide(study, tmp_path / "run")
    overrides = ["track=[tensorboard]"]
    decide(study, tmp_path / "run", overrides=overrides, resume=True)
    assert len(heard.every) == 1
    decide(study, tmp_path / "run", fresh=True)
    assert not (tmp_path / "run/tracking").exists()


@pytest.mark.parametrize("broken", ["open", "parameters", "metrics", "result", "files", "close"])
def test_a_tracker_that_fails_is_left_out_and_the_study_ends_well(heard, base, tmp_path, broken):
    heard.broken = broken
    study = world.study_file(tmp_path, base, track=["tensorboard"])
    with pytest.warns(
        tracking.TrackerWarning, match=f"tensorboard failed .* no room to {broken} at"
    ):
        found = decide(study, tmp_path / "run")
    assert found.verdict.recommendation.strategy and (tmp_path / "run/manifest.json").is_file()


def test_a_missing_library_is_said_before_anything_is_computed(monkeypatch, base, tmp_path):
    monkeypatch.setattr(TRACKERS.get("wandb"), "libraries", ("no_such_library", "numpy"))
    study = world.study_file(tmp_path, base, track=["wandb"])
    for run in (decide, lambda *a, **k: train_method(a[0], "lora", a[1], **k)):
        with pytest.raises(CapabilityError) as raised:
            run(study, tmp_path / "run")
        assert "wandb needs no_such_library, which" in raised.value.cause
        assert raised.value.fix == "pip install 'domainwright[wandb]', or leave wandb out of track."
        assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_names_the_nearest(base, tmp_path):
    with pytest.raises(UnknownName, match=r"no tracker called 'wandbb'.\n  fix: use 'wandb'"):
        decide(world.study_file(tmp_path, base, track=["wandbb"]), tmp_path / "run")
    with pytest.raises(ConfigError, match="track names one twice: wandb, wandb"):
        decide(world.study_file(tmp_path, base, track=["wandb", "wandb"]), tmp_path / "run")


@pytest.fixture(scope="module")
def tracked_by(base, tmp_path_factory):
    """The study "w" as the real tracker of that name keeps it."""

    def run(name, monkeypatch):
        for library in TRACKERS.get(name).libraries:
            pytest.importorskip(library)
        folder = tmp_path_factory.mktemp(name)
        monkeypatch.setattr(tracking, "EVERY_S", 0.0)
        for server in SERVERS:
            monkeypatch.delenv(server, raising=False)
        study = world.study_file(folder, base, name="w", track=[name], strategies=["lora+rag"])
        world.write_lines(folder / "documents.jsonl", world.documents())
        with warnings.catch_warnings():
            # Libraries of others warn of what they will drop; ours must still end the test.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", tracking.TrackerWarning)
            found = decide(study, folder / "run", overrides=["data.documents=documents.jsonl"])
        return found.verdict, folder / "run"

    return run


def losses(run):
    file = run / "trials/lora/metrics.jsonl"
    return {x["step"]: x["loss"] for x in map(json.loads, file.open()) if "loss" in x}


def near(value):
    return pytest.approx(value, rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_for_real(tracked_by, monkeypatch):
    verdict, run = tracked_by("tensorboard", monkeypatch)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / "tracking/tensorboard"))
    read.Reload()
    got = {event.step: event.value for event in read.Scalars("lora/loss")}
    assert got == {step: near(loss) for step, loss in losses(run).items()}
    assert [e.step for e in read.Scalars("lora/learning_rate")] == list(range(1, 7))
    (score,) = read.Scalars("lora+rag/result/score")
    assert score.value == near(verdict.strategies[1].score.mean)
    told = read.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    assert verdict.recommendation.sentence in told and "verdict.json" in told
    assert b"train.steps" in read.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_for_real(tracked_by, monkeypatch):
    verdict, run = tracked_by("mlflow", monkeypatch)
    from mlflow import MlflowClient

    place = run / "tracking/mlflow"
    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}", registry_uri=str(place))
    experiment = client.get_experiment_by_name("domainwright")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.run_name == "w" and kept.info.status == "FINISHED"
    assert kept.data.params["train.steps"] == "6"
    history = client.get_metric_history(kept.info.run_id, "lora/loss")
    assert {m.step: m.value for m in history} == losses(run)
    assert kept.data.metrics["lora-rag/result/score"] == verdict.strategies[1].score.mean
    files = {f.path for f in client.list_artifacts(kept.info.run_id)}
    assert files == {"verdict.json", "report.html"}
    assert kept.data.tags["mlflow.note.content"] == verdict.recommendation.sentence


@pytest.mark.filterwarnings("ignore")
def test_optuna_for_real(tracked_by, monkeypatch):
    verdict, run = tracked_by("optuna", monkeypatch)
    import optuna

    place = f"sqlite:///{run / 'tracking/optuna/optuna.db'}"
    (name,) = optuna.get_all_study_names(place)
    kept = optuna.load_study(study_name=name, storage=place)
    assert name == "w" and kept.user_attrs["train.steps"] == "6"
    assert kept.user_attrs["verdict"] == verdict.recommendation.sentence
    trials = {trial.user_attrs["strategy"]: trial for trial in kept.trials}
    done = {r.name: r.score.mean for r in verdict.strategies if r.score}
    assert {name: trials[name].value for name in done} == done
    watched = {
        line["step"]: -line["development_loss"]
        for line in map(json.loads, (run / "trials/lora/metrics.jsonl").open())
        if "development_loss" in line
    }
    assert trials["lora"].intermediate_values == watched
    assert {trials[n].state.name for n in set(trials) - set(done)} <= {"PRUNED"}
    # Another study of the name in the same database, and the first one gone on with.
    kind, folder = TRACKERS.get("optuna"), run / "tracking/optuna"
    assert kind("w", folder, None).identity == "w-2"
    again = kind("w", folder, "w")
    again.metrics("lora", [(7, {"development_loss": 0.5})])
    assert len(optuna.load_study(study_name="w", storage=place).trials) == len(trials)


@pytest.mark.filterwarnings("ignore")
def test_trackio_for_real(tracked_by, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    verdict, run = tracked_by("trackio", monkeypatch)
    assert capsys.readouterr().out == ""
    import sqlite3

    with sqlite3.connect(next(tmp_path.glob("domainwright*.db"))) as kept:
        rows = [(s, json.loads(m)) for s, m in kept.execute("select step, metrics from metrics")]
        config = json.loads(kept.execute("select config from configs").fetchone()[0])
    assert config["train.steps"] == "6"
    got = {step: told["lora/loss"] for step, told in rows if "lora/loss" in told}
    assert got == losses(run)
    (score,) = [told[k] for _, told in rows for k in ("lora+rag/result/score",) if k in told]
    assert score == verdict.strategies[1].score.mean
    assert {f.name for f in tmp_path.rglob("*") if f.suffix in (".json", ".html")} == {
        "verdict.json",
        "report.html",
    }


def records_of(file):
    """The records of a .wandb file: a LevelDB log in blocks of 32 KiB behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32_768 - place % 32_768 < 7:
            place += 32_768 - place % 32_768
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        if place + 7 + size > len(data):
            return  # its end is still to be written
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part of one
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.filterwarnings("ignore")
def test_wandb_for_real(tracked_by, monkeypatch):
    verdict, run = tracked_by("wandb", monkeypatch)
    (file,) = (run / "tracking/wandb").rglob("run-*.wandb")
    # Its service writes the last records after the run is closed.
    for _ in range(200):
        records = list(records_of(file))
        if any(r.HasField("exit") for r in records):
            break
        time.sleep(0.05)
    got, summary, artifacts, config = {}, {}, [], {}
    for record in records:
        told = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in (*record.history.item, *record.summary.update)
        }
        if "lora/loss" in told:
            got[told["lora/step"]] = told["lora/loss"]
        summary |= told
        config |= {i.key: i.value_json for i in (*record.config.update, *record.run.config.update)}
        if record.HasField("request") and record.request.HasField("log_artifact"):
            artifacts += record.request.log_artifact.artifact.manifest.contents
        if record.HasField("artifact"):
            artifacts += record.artifact.manifest.contents
    assert {s: near(x) for s, x in losses(run).items()} == {
        k: v for k, v in got.items() if k in losses(run)
    }
    assert summary["lora+rag/result/score"] == near(verdict.strategies[1].score.mean)
    assert summary["verdict"] == verdict.recommendation.sentence
    assert json.loads(config["train.steps"]) == "6"
    assert {x.path for x in artifacts} == {"verdict.json", "report.html"}
