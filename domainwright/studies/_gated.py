"""A gated strategy, put together from answers that are there: the adapter's and the base's.

METHOD+gated trains and scores nothing again. For every test item and every general text and
question the gate says who answers; the item is then the one that METHOD's trial or the base's has,
bit for bit, with the seconds that the gate took. Only where a study leaves out the strategy
without the gate, or the prompting without the method, are the few items asked that are missing.

    forgetting = mean over the suite of passed · (loss of the tuned - loss of the base)

so it is that of the general items which pass by mistake, the gate's false positives. With the gate
closed the adapter is off and the prompt stays METHOD's own: of lora+rag+gated that of `rag`.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from domainwright.core.artifacts import read_manifest, sha256_json, write_folder
from domainwright.core.errors import CapabilityError, ConfigError, DataError, RunFailed
from domainwright.core.progress import Listener, Step
from domainwright.core.records import Row
from domainwright.evaluate.records import Item
from domainwright.evaluate.retained import Retained, Suite, change
from domainwright.studies import _format as f
from domainwright.studies._choice import failed, kind, parts
from domainwright.studies._exam import Exam
from domainwright.studies._gate import GATE, Gate, gate_seconds, input_of
from domainwright.studies._limits import refusal
from domainwright.studies._names import GATED, ungated
from domainwright.studies._scorecards import write_items
from domainwright.studies._training import Trainer
from domainwright.studies.confusion import answered
from domainwright.studies.gating import Gating
from domainwright.studies.judge import pooled, retention_record, summarise
from domainwright.studies.records import StrategyResult
from domainwright.studies.tune import Tuned

ROUTES, FILE = "routes", "routes.jsonl"
PASSED, TO_BASE = "passed", "to-base"
"""Folders of the answers that are asked for a gated strategy alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Who answers one input."""

    id: str
    nearness: float
    passed: bool
    """True: the adapter; False: the untouched base."""
    seconds: float
    """What telling took."""


def route(
    gate: Gate, inputs: Sequence[tuple[str, str]], folder: Path, listen: Listener, stage: str
) -> list[Route]:
    """Where the gate sends every (id, text), in their order; kept in `folder`."""
    parents = {"gate": gate.hash, "inputs": sha256_json([list(x) for x in inputs])}
    if (kept := _read(folder, parents)) is not None:
        return kept
    routes = []
    for number, (name, text) in enumerate(inputs, 1):
        begun = time.perf_counter()
        near = gate.nearness(text)
        took = time.perf_counter() - begun
        routes.append(Route(id=name, nearness=near, passed=near >= gate.threshold, seconds=took))
        listen(Step(stage, number, len(inputs)))

    def fill(out: Path) -> None:
        lines = "".join(json.dumps(asdict(x)) + "\n" for x in routes)
        (out / FILE).write_text(lines, encoding="utf-8")

    write_folder(folder, ROUTES, fill, parents=parents)
    return routes


def mixture(
    routes: Sequence[Route], tuned: Sequence[Item | None], base: Sequence[Item | None]
) -> list[Item]:
    """The item of whoever answers, place by place, with the gate's own seconds.

    Where the tuned items hold a mark for every training seed, so do the base's: the same one.

    Args:
        tuned: None where nobody asked, which is right where the base answers; and so with `base`.
    """
    seeds = max((len(x.marks) for x in tuned if x), default=0)
    found = []
    for where, on, off in zip(routes, tuned, base, strict=True):
        item = on if where.passed else off
        assert item is not None, f"{where.id} was not asked"
        if not where.passed:
            item = replace(item, marks=(item.mark.correct,) * seeds)
        found.append(replace(item, seconds=item.seconds + where.seconds))
    return found


@dataclass
class GatedTrials:
    """The gated strategies of one study."""

    exam: Exam
    trainer: Trainer
    before: Retained
    """The untouched base on the retention suite."""
    make: Callable[[], Gate]

    def trial(self, name: str) -> StrategyResult:
        """One gated strategy, measured; failed where its adapter or its gate could not be made."""
        method, prompting = parts(name)
        assert method is not None
        outcome = self.trainer.tune(method)
        if isinstance(outcome, Exception):
            return failed(name, outcome)
        exam = self.exam
        try:
            gate = self.make()
            routes = self._routes(gate, _inputs(exam.rows), "items")
            items, cards = self._items(name, outcome, routes)
        except (ConfigError, RunFailed, CapabilityError) as error:
            return failed(name, error)
        parents = {
            "dataset": exam.data.hash,
            "base": exam.base.sha256,
            "adapter": outcome.hash,
            "gate": gate.hash,
            **cards,
        }
        folder = exam.folder / "trials" / name / "scorecard"
        write_items(folder, "scorecard", {"items.jsonl": items}, parents)
        exam.items[name] = items
        alone = exam.retained(method, outcome.adapter.attached(), outcome.hash)
        inputs = general_inputs(exam.suite, self.before)
        general = self._routes(gate, inputs, "general")
        now = retained_mixture(general, alone, self.before)
        return StrategyResult(
            name=name,
            kind=kind(name),
            status="done",
            retention=retention_record(now, change(self.before, now)),
            training=outcome.training,
            adapter=f"trials/{method}/adapter",
            note=exam.prompters.note(prompting),
            prepare_seconds=exam.prompters.prepare_seconds(prompting) + gate_seconds(exam.folder),
            answered=answered(items),
            gate=Gating(
                share=gate.settings.share,
                threshold=gate.threshold,
                development=gate.development,
                development_passed=gate.development_passed,
                tested=len(routes),
                tested_passed=sum(x.passed for x in routes),
                general=len(general),
                general_passed=sum(x.passed for x in general),
                ungated_change=change(self.before, alone).nats_per_token,
            ),
            **summarise(items),
        )

    def further(self, results: Sequence[StrategyResult], limit: float) -> list[str]:
        """Gated strategies that `auto` adds: of what loses more than its limits, and no other.

        The scores take no part: they are of test items, and nothing may be chosen by them before
        they are compared. Their answers are all there, so that it takes the encoder's passes alone.
        """
        return [f"{r.name}+{GATED}" for r in results if r.training and refusal(r, limit)]

    def _routes(self, gate: Gate, inputs: Sequence[tuple[str, str]], what: str) -> list[Route]:
        folder = self.exam.folder / GATE / f"{ROUTES}-{what}"
        return route(gate, inputs, folder, self.exam.listen, f"gate {what}")

    def _items(
        self, name: str, outcome: Tuned, routes: Sequence[Route]
    ) -> tuple[list[Item], dict[str, str]]:
        """(the test items as whoever answers each answers it, the scorecards they are from)."""
        exam, (method, prompting) = self.exam, parts(name)
        assert method is not None
        passed = {x.id for x in routes if x.passed}

        def tuned(rows: list[Row]) -> list[Item]:
            with outcome.adapter.attached():
                runs = [exam.ask(name, prompting, outcome.hash, PASSED, rows)]
            for number in range(1, self.trainer.plan.seeds):
                other = self.trainer.further(method, number)
                with other.adapter.attached():
                    part = f"seed-{number}/{PASSED}"
                    runs.append(exam.ask(name, prompting, other.hash, part, rows))
            return pooled(runs)

        def base(rows: list[Row]) -> list[Item]:
            return exam.ask(name, prompting, "", TO_BASE, rows)

        sides, cards = [], {}
        for twin, part, ask, inside in (
            (ungated(name), PASSED, tuned, True),
            (prompting, TO_BASE, base, False),
        ):
            rows = [r for r in exam.rows if (r.id in passed) is inside]
            known = exam.items.get(twin)
            items = (ask(rows) if rows else []) if known is None else known
            by_id = {item.id: item for item in items}
            sides.append([by_id.get(row.id) for row in exam.rows])
            if items:
                own = f"{name}/{part}" if known is None else f"{twin}/scorecard"
                cards[part] = read_manifest(exam.folder / "trials" / own)["hash"]
        return mixture(routes, *sides), cards


def general_inputs(suite: Suite, before: Retained) -> list[tuple[str, str]]:
    """(id, what is asked) of each text, choice and task's item, in this order."""
    # Of a task that lm-eval asks, what an item keeps of its prompt: the end.
    tasks = [(x.id, x.question) for task in before.tasks for x in task.items]
    return [*_inputs([*suite.texts, *suite.choices]), *tasks]


def retained_mixture(routes: Sequence[Route], tuned: Retained, base: Retained) -> Retained:
    """What the gated model keeps: of each text, choice and task's item, in this order."""
    rest = iter(routes)

    def mixed(on: Sequence[Item], off: Sequence[Item]) -> tuple[Item, ...]:
        return tuple(mixture([next(rest) for _ in on], on, off))

    texts, choices = mixed(tuned.texts, base.texts), mixed(tuned.choices, base.choices)
    tasks = (
        replace(on, items=mixed(on.items, off.items))
        for on, off in zip(tuned.tasks, base.tasks, strict=True)
    )
    return Retained(texts, choices, tuple(tasks))


def told(results: Sequence[StrategyResult]) -> list[str]:
    """What the gates did, in a sentence for each strategy."""
    said = []
    for r in results:
        gate = r.gate
        if gate is None or r.retention is None:
            continue
        false = gate.general_passed / gate.general if gate.general else 0.0
        said.append(
            f"{r.name}: the adapter answered {f.count(gate.tested_passed)} of "
            f"{f.count(gate.tested)} test items and the untouched base the others; "
            f"{f.count(gate.general_passed)} of {f.count(gate.general)} general texts and "
            f"questions reached the adapter by mistake ({f.percent(false)}). It forgets "
            f"{f.fixed(r.retention.nats_change.mean, 3)} nats per token, without the gate "
            f"{f.fixed(gate.ungated_change.mean, 3)}."
        )
    return said


def _inputs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [(row.id, input_of(row)) for row in rows]


def _read(folder: Path, parents: Mapping[str, str]) -> list[Route] | None:
    """Routes told before by the same gate for the same rows, or None."""
    try:
        manifest = read_manifest(folder, ROUTES)
    except DataError:
        return None
    if manifest["parents"] != parents:
        return None
    lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    return [Route(**json.loads(line)) for line in lines]
