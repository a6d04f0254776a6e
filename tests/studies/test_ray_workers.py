"""What is done with Ray's workers: handed out, told of, lost, replaced, stopped. Ray is a fake."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from domainwright.core.errors import CapabilityError, DataError, RunFailed
from domainwright.core.progress import Step
from domainwright.studies import _on_ray
from domainwright.studies._on_ray import MOST_LOSSES, RayWorkers
from domainwright.studies._worker import Alike
from domainwright.studies.tune import Wanted
from domainwright.train.job import Interrupted
from domainwright.train.settings import TrainSettings


@dataclass(eq=False)
class Call:
    function: Any
    words: tuple
    left: int
    """How often it is waited for before it is done."""


class LostRay:
    """Ray as far as trainings use it, in this process: a call is made when it is waited for."""

    def __init__(self, losses=(), nodes=({"CPU": 2.0},), takes=0):
        self.losses = list(losses)
        """What the coming trainings do: True: their worker is lost."""
        self.machines, self.takes = nodes, takes
        self.begun = self.killed = self.stopped = 0

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            def __init__(self, cause):
                self.cause = cause

    def nodes(self):
        return [{"Alive": True, "Resources": has} for has in self.machines]

    def remote(self, **options):
        self.options = options

        def begin(*words):
            self.begun += 1
            return SimpleNamespace(
                host=self.call(lambda: "a-machine"),
                train=self.call(self.trained, takes=self.takes),
                step=self.call(lambda: Step("train it", 3, 6)),
                stop=self.call(None, self.stop),
            )

        return lambda cls: SimpleNamespace(remote=begin)

    def stop(self):
        self.stopped += 1

    def call(self, function, at_once=lambda: None, takes=0):
        return SimpleNamespace(remote=lambda *words: at_once() or Call(function, words, takes))

    def trained(self, wanted, until):
        assert wanted.base is None
        if self.losses and self.losses.pop(0):
            raise self.exceptions.RayError("the worker is gone")
        if wanted.method == "bad":
            raise self.exceptions.RayTaskError(DataError("The rows are bad.", "take others."))
        return RunFailed("It diverged.", "lower it.") if wanted.method == "failing" else None

    def wait(self, refs, num_returns=1, timeout=None):
        ready = [ref for ref in refs if ref.left <= 0][:num_returns]
        for ref in refs:
            ref.left -= 1
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref):
        return ref.function(*ref.words)

    def kill(self, actor):
        self.killed += 1


def part(folder, method="lora"):
    base = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, sha256="x")
    nothing = dict.fromkeys(("rows", "development", "general"), ())
    return Wanted(
        base=base,
        method=method,
        settings=TrainSettings(steps=6),
        method_settings={},
        steps=None,
        seed=0,
        folder=folder,
        parents={},
        **nothing,
    )


class TestWorkers:
    @pytest.fixture
    def trained(self, tmp_path):
        """Trains the methods, each under its name, on a Ray that is given; what was told."""
        told = []

        def train(ray, *methods, most=None, stop=lambda: False):
            workers = RayWorkers(None, ray, most)
            parts = {m: part(tmp_path / m, m) for m in methods}
            try:
                return workers.train(parts, None, told.append, stop)
            finally:
                workers.close()
                train.told = [(s.stage, s.done, s.facts["on ray"]) for s in told]

        return train

    def test_every_training_is_told_of_as_it_begins_and_ends(self, trained, monkeypatch):
        monkeypatch.setattr(_on_ray.time, "monotonic", lambda: 0.0)
        ray = LostRay()
        found = trained(ray, "lora", "failing", most=1)
        assert found["lora"] is None and found["failing"].cause == "It diverged."
        assert trained.told == [
            ("workers", 0, "waiting for a worker"),
            ("train lora", 0, "begun on a-machine"),
            ("train lora", 6, "finished in 0 s"),
            ("train failing", 0, "begun on a-machine"),
            ("train failing", 6, "failed after 0 s: It diverged."),
        ]
        assert ray.begun == ray.killed == 1

    def test_a_long_training_is_told_of_in_between(self, trained, monkeypatch):
        clock = iter(range(0, 10_000, 11))
        monkeypatch.setattr(_on_ray.time, "monotonic", lambda: next(clock))
        trained(LostRay(takes=9), "lora", "ia3", most=2)
        assert ("train ia3", 3, "a-machine") in trained.told

    def test_a_lost_worker_is_replaced(self, trained):
        ray = LostRay(losses=[True, True])
        assert trained(ray, "lora", most=1) == {"lora": None}
        assert ray.begun == 3
        lost = ("train lora", 0, "its worker was lost; goes on from its last checkpoint")
        assert trained.told.count(lost) == 2

    def test_a_training_that_kills_its_workers_ends_the_study(self, trained):
        ray = LostRay(losses=[True] * 99)
        with pytest.raises(CapabilityError, match="training lora") as caught:
            trained(ray, "lora", most=1)
        assert "--resume" in caught.value.fix and ray.begun == 1 + MOST_LOSSES
        assert ray.killed == ray.begun

    def test_losses_with_checkpoints_between_them_are_no_reason_to_give_up(self, trained, tmp_path):
        class Walking(LostRay):
            def trained(self, wanted, until):
                step = 99 - len(self.losses)
                (wanted.folder / "checkpoints" / f"step-{step:07d}").mkdir(parents=True)
                return super().trained(wanted, until)

        ray = Walking(losses=[True] * 3 * MOST_LOSSES)
        assert trained(ray, "lora", most=1) == {"lora": None}
        told = [done for _, done, words in trained.told if "last checkpoint" in words]
        assert told == list(range(99 - 3 * MOST_LOSSES, 99))

    def test_what_goes_wrong_in_a_worker_is_raised_as_it_was(self, trained):
        with pytest.raises(DataError, match="The rows are bad"):
            trained(LostRay(), "lora", "bad")

    def test_stopped_on_request(self, trained):
        ray, asked = LostRay(takes=9), iter([*[False] * 5, True])
        with pytest.raises(Interrupted):
            trained(ray, "lora", "ia3", "full", most=2, stop=lambda: next(asked))
        assert ray.stopped == 2 and ray.killed == ray.begun == 2

    def test_as_many_as_the_machines_hold(self, trained, monkeypatch):
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        ray = LostRay(nodes=({"CPU": 8.0}, {"CPU": 2.0}, {"CPU": 4.0}))
        trained(ray, *"abcdefg")
        assert ray.begun == 3 and ray.options["num_cpus"] == 3 and ray.options["num_gpus"] == 0
        with pytest.raises(CapabilityError, match="3 processors"):
            trained(LostRay(), "lora")

    def test_a_base_on_a_gpu_takes_one_for_each(self, trained, monkeypatch):
        alike = Alike(device="cuda", dtype="bfloat16", threads=8, sha256="x")
        monkeypatch.setattr(Alike, "of", lambda base: alike)
        ray = LostRay(nodes=({"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}))
        trained(ray, *"abcdefg")
        assert ray.begun == 2 and (ray.options["num_cpus"], ray.options["num_gpus"]) == (1, 1)
        with pytest.raises(CapabilityError, match="one GPU"):
            trained(LostRay(), "lora")
