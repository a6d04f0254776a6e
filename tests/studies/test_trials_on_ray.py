"""A study whose trainings are made ahead, several at once, ends as one that trains in turn.

What Ray itself does is skipped where it is not installed. In an environment with Ray:
`python -m pytest tests/studies/test_trials_on_ray.py`.
"""

import json
import os
import pickle
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.core.lock import lock
from domainwright.studies import _on_ray
from domainwright.studies import decide as decide_module
from domainwright.studies._worker import Alike, TrialWorker, bare
from domainwright.studies.api import decide
from domainwright.studies.study import read_study
from domainwright.train.job import Interrupted
from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")
LISTED = {"strategies": ["zero_shot", "lora", "lora+few_shot", "ia3"], "seeds": 2}
AUTO = {"strategies": "auto", "seeds": 2, "train": {"learning_rate": None, "steps": 24}}
FAILING = {"train": {"max_forgetting": 0.0, "learning_rate": 5.0}}
TIMES = {
    *("created", "minutes", "planned", "seconds", "prepare_seconds", "seconds_per_answer"),
    *("tokens_per_s", "peak_rss_mib", "costs", "thousand", "total", "notes"),
}


def timeless(data):
    """A verdict without what differs between any two runs: times, memory, what follows of them."""
    if isinstance(data, dict):
        return {k: timeless(v) for k, v in data.items() if k not in TIMES}
    return [timeless(x) for x in data] if isinstance(data, list) else data


def outcome(folder):
    """The verdict, and every adapter bit for bit."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes()
             for p in sorted((folder / "trials").rglob("*.safetensors"))
             if "checkpoints" not in p.parts}  # fmt: skip
    return timeless(json.loads((folder / "verdict.json").read_text("utf-8"))), found


class InTurn:
    """Workers in this process, each training with a base that it loads itself."""

    def __init__(self, study):
        self.study, self.rounds = study, []

    def train(self, parts, until, listen, stop):
        self.rounds.append((sorted(parts), until))
        return {name: self.one(wanted, until) for name, wanted in reversed(parts.items())}

    def one(self, wanted, until):
        worker = TrialWorker(self.study, Alike.of(wanted.base))
        return pickle.loads(pickle.dumps(worker.train(*_travelled(bare(wanted), until))))


def _travelled(*words):
    return pickle.loads(pickle.dumps(words))


@pytest.fixture
def ahead(monkeypatch):
    """What `decide` hands its trainings to; a list that fills with it."""
    made = []

    def workers_of(study, on, workers):
        made.append(InTurn(study))
        return nullcontext(made[-1])

    monkeypatch.setattr(decide_module, "workers_of", workers_of)
    return made


@pytest.fixture(scope="module", params=["listed", "auto"])
def whole(request, tmp_path_factory, base):
    """(study file, what a study that trains in turn ends with, which of the two)."""
    folder = tmp_path_factory.mktemp(request.param)
    study = world.study_file(folder, base, **{"listed": LISTED, "auto": AUTO}[request.param])
    with pytest.MonkeyPatch.context() as patch:
        world.small_suite(patch)
        decide(study, folder / "in-turn")
    return study, outcome(folder / "in-turn"), request.param


def same(found, wanted):
    assert found[0] == wanted[0]
    assert found[1].keys() == wanted[1].keys() and len(wanted[1]) >= 2
    assert [name for name in wanted[1] if found[1][name] != wanted[1][name]] == []


class TestAhead:
    def test_the_same_verdict_and_adapters(self, whole, tmp_path, ahead):
        study, wanted, kind = whole
        decide(study, tmp_path / "run")
        same(outcome(tmp_path / "run"), wanted)
        rounds = ahead[0].rounds
        if kind == "listed":
            assert rounds == [(["ia3", "ia3/seed-1", "lora", "lora/seed-1"], None)]
            return
        winner = wanted[0]["search"]["candidates"]
        (winner,) = [c for c in winner if c["decision"] == "chosen"]
        first, second, *last = rounds
        ends = [names for names, until in last if until is None]
        assert (len(first[0]), first[1], len(second[0]), second[1]) == (3, 8, 2, 16)
        assert set(ends[0]) < set(second[0]) < set(first[0])
        assert ends[1:] == [[f"{winner['method']}/seed-1"]] and len(last) == 2

    def test_what_is_finished_is_not_made_again(self, whole, tmp_path, ahead):
        study, wanted, _kind = whole

        def interrupt(step):
            if step.stage.startswith("retention ") and step.stage.split()[1] != "base:":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            decide(study, tmp_path / "run", listen=interrupt)
        decide(study, tmp_path / "run", resume=True)
        same(outcome(tmp_path / "run"), wanted)
        assert len(ahead) == 2 and ahead[1].rounds == []

    def test_a_study_begun_in_turn_goes_on_ahead_and_back(self, tmp_path, base, monkeypatch):
        study = world.study_file(tmp_path, base, **LISTED)
        decide(study, tmp_path / "in-turn")
        folder = tmp_path / "run"

        def interrupt(step):
            if step.stage == "train lora" and step.done == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            decide(study, folder, listen=interrupt)
        with monkeypatch.context() as patch:
            made = []
            patch.setattr(decide_module, "workers_of", lambda study, on, workers: nullcontext(
                made.append(Stopping(study)) or made[0]))  # fmt: skip
            with pytest.raises(KeyboardInterrupt):
                decide(study, folder, resume=True)
        assert made[0].rounds
        decide(study, folder, resume=True)
        same(outcome(folder), outcome(tmp_path / "in-turn"))

    def test_failures_are_those_of_a_study_in_turn(self, tmp_path, base, monkeypatch, request):
        study = world.study_file(tmp_path, base, **world.merged(LISTED, FAILING))
        decide(study, tmp_path / "in-turn")
        request.getfixturevalue("ahead")
        decide(study, tmp_path / "run")
        wanted, found = (outcome(tmp_path / name)[0] for name in ("in-turn", "run"))
        assert found == wanted
        states = {r["name"]: r["status"] for r in wanted["strategies"]}
        assert states["zero_shot"] == "done" and "failed" in states.values()

    def test_the_table_says_what_is_trained(self, tmp_path, base, monkeypatch):
        study = world.study_file(tmp_path, base, **LISTED)
        seen = []

        class Telling(InTurn):
            def train(self, parts, until, listen, stop):
                listen(decide_module.Step("train lora/seed-1", 3, 6, {"on ray": "begun"}))
                return super().train(parts, until, listen, stop)

        monkeypatch.setattr(
            decide_module, "workers_of", lambda study, on, workers: nullcontext(Telling(study))
        )
        decide(study, tmp_path / "run", listen=seen.append)
        (told,) = [step for step in seen if step.stage == "train lora/seed-1"]
        assert told.left_s is None
        assert [(s.name, s.doing) for s in told.standings] == [
            ("zero_shot", ""),
            ("lora", "training step 3 of 6"),
            ("lora+few_shot", "training step 3 of 6"),
            ("ia3", ""),
        ]


class Stopping(InTurn):
    """Stops as on Ctrl-C, after one training."""

    def one(self, wanted, until):
        if len(self.rounds) > 1:
            raise Interrupted
        self.rounds.append("one")
        return super().one(wanted, until)


class TestSettings:
    def test_a_place_that_is_none(self, base, tmp_path):
        with pytest.raises(ConfigError, match="here, ray"):
            decide(world.study_file(tmp_path, base), tmp_path / "run", on="spark")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(("workers", "on"), [(0, "ray"), (2, "here")])
    def test_a_number_of_workers_that_is_none(self, base, tmp_path, workers, on):
        study = world.study_file(tmp_path, base)
        with pytest.raises(ConfigError, match=f"workers is {workers}"):
            decide(study, tmp_path / "run", on=on, workers=workers)

    def test_without_ray_it_says_what_to_install(self, base, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(CapabilityError, match=r"domainwright\[ray\]"):
            decide(world.study_file(tmp_path, base), tmp_path / "run", on="ray")
        assert not (tmp_path / "run").exists()

    def test_a_second_process_is_refused(self, base, tmp_path, ahead):
        study = world.study_file(tmp_path, base)
        with lock(tmp_path / "run"), pytest.raises(ConfigError, match="Another process"):
            decide(study, tmp_path / "run", on="ray")

    def test_a_worker_with_another_base_is_refused(self, base, tmp_path):
        study = read_study(world.study_file(tmp_path, base))
        alike = Alike(device="cpu", dtype="float32", threads=1, sha256="another")
        worker = TrialWorker(study, alike)
        with pytest.raises(DataError, match="other weights"):
            worker._base  # noqa: B018


SEEN = "DOMAINWRIGHT_TEST_SEEN"


class Dying(TrialWorker):
    """Is killed once behind step 5 of `train lora`; writes down what it trains."""

    def _listen(self, step):
        super()._listen(step)
        seen = Path(os.environ[SEEN])
        first = "dies" not in (seen.read_text() if seen.exists() else "")
        dies = step.stage == "train lora" and step.done == 5 and first
        with seen.open("a") as file:
            file.write(f"{os.getpid()} {step.stage} {step.done}{' dies' if dies else ''}\n")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)


class Broken(TrialWorker):
    def train(self, wanted, until):
        raise DataError("The disk is gone.", "mount it.")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestRay:
    """Ray warns of what it will change in itself, and leaves sockets open behind it."""

    @pytest.fixture(autouse=True)
    def needed(self, monkeypatch, tmp_path):
        pytest.importorskip("ray")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), *sys.path]))
        monkeypatch.setenv(SEEN, str(tmp_path / "seen"))

    def test_the_same_verdict_and_adapters_though_a_worker_is_killed(
        self, whole, tmp_path, monkeypatch
    ):
        study, wanted, _ = whole
        monkeypatch.setattr(_on_ray, "TrialWorker", Dying)
        told = []
        decide(study, tmp_path / "run", on="ray", workers=2, listen=told.append)
        same(outcome(tmp_path / "run"), wanted)
        seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
        (dead,) = {line[0] for line in seen if line[-1] == "dies"}
        words = [step.facts.get("on ray", "") for step in told]
        assert [x for x in words if "was lost" in x]
        # Another went on behind the checkpoint of step 4, which was not taken again.
        steps = [(who, int(step)) for who, _, method, step, *_ in seen if method == "lora"]
        assert (dead, 5) in steps and [s for who, s in steps if who != dead].count(5) >= 1

    def test_a_failing_trial_is_reported_as_in_turn(self, tmp_path, base):
        study = world.study_file(tmp_path, base, **FAILING)
        decide(study, tmp_path / "in-turn")
        told = []
        decide(study, tmp_path / "run", on="ray", workers=1, listen=told.append)
        assert outcome(tmp_path / "run")[0] == outcome(tmp_path / "in-turn")[0]
        assert [s for s in told if s.facts.get("on ray", "").startswith("failed after")]

    def test_an_error_is_raised_as_it_was(self, tmp_path, base, monkeypatch):
        monkeypatch.setattr(_on_ray, "TrialWorker", Broken)
        with pytest.raises(DataError, match="The disk is gone"):
            decide(world.study_file(tmp_path, base), tmp_path / "run", on="ray", workers=1)

    def test_stopped_with_a_checkpoint_and_resumed_here(self, tmp_path, base):
        study = world.study_file(tmp_path, base, train={"steps": 400, "checkpoint_every": 399})
        folder, begun = tmp_path / "run", []

        def listen(step):
            if step.facts.get("on ray", "").startswith("begun"):
                begun.append(time.monotonic())

        checkpoints = folder / "trials" / "lora" / "checkpoints"

        on_end, seen = signal.getsignal(signal.SIGTERM), []

        def stop():
            seen.append(signal.getsignal(signal.SIGTERM))
            metrics = folder / "trials" / "lora" / "metrics.jsonl"
            return bool(begun) and metrics.exists()

        with pytest.raises(KeyboardInterrupt):
            decide(study, folder, on="ray", workers=1, listen=listen, stop=stop)
        (step,) = (int(p.name.removeprefix("step-")) for p in checkpoints.iterdir())
        assert 0 < step < 399
        # Ray puts a handler of its own there, which would end us without a checkpoint.
        assert set(seen) == {on_end}
        decide(study, folder, resume=True)
        decide(study, tmp_path / "in-turn")
        lora = "trials/lora/adapter/adapter_model.safetensors"
        assert (folder / lora).read_bytes() == (tmp_path / "in-turn" / lora).read_bytes()
