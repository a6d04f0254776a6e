"""refine: one round from the champion's errors to a challenger that is accepted or refused."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from domainwright.core.artifacts import (
    read_manifest,
    seal,
    sha256_file,
    write_atomic,
    write_json,
)
from domainwright.core.errors import ConfigError, DataError, RunFailed
from domainwright.core.lock import lock
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Row, SetAside
from domainwright.curate.augmentation import AUGMENTATIONS
from domainwright.curate.content import answer, question
from domainwright.curate.dataset import write_dataset
from domainwright.curate.read import ReadResult
from domainwright.curate.split import Split
from domainwright.evaluate.records import Item
from domainwright.models.encoder import default_encoder
from domainwright.studies.refine import acceptance
from domainwright.studies.refine.challenger import Ring
from domainwright.studies.refine.champion import crown
from domainwright.studies.refine.errors import Found, find_errors
from domainwright.studies.refine.folder import KIND, REQUEST, Request, open_round, read_round
from domainwright.studies.refine.halves import Halves, halves
from domainwright.studies.refine.proposal import Chosen, choose, offered, reading
from domainwright.studies.refine.records import Decision, Proposal, Refined
from domainwright.studies.refine.source import Source, open_source, study_of
from domainwright.studies.refine.variants import as_read, variants

PART_OF_RUN = 0.2
"""Steps of a challenger, as a share of the run's own, where none are given."""


def refine(
    run: str | Path,
    *,
    strategy: str | None = None,
    data: Sequence[str | Path] = (),
    augment: str | None = None,
    share: float = 0.5,
    steps: int | None = None,
    resume: bool = False,
    fresh: bool = False,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> Refined:
    """Name the champion's errors, train a challenger on rows like them, and judge it.

    Args:
        run: folder of a finished `decide` or `train_method`.
        strategy: one of the study with an adapter; None: the recommended one.
        data: files of new rows with right answers. None: training rows near the errors are read
            more often.
        augment: also make a variant of every proposed row; a way that needs no writer: "eda".
        share: of the rows read in retraining, those that are proposed, in (0, 1].
        steps: optimiser steps. None: a fifth of those that the run's own adapter took.

    Raises:
        ConfigError, DataError, UnknownName: what was asked for does not fit the run.
        CapabilityError: the retraining does not fit into the memory.
    """
    run = Path(run)
    _check(run, augment, share, steps)
    with lock(run):
        source = open_source(run, strategy, listen)
        if not source.data.split.dev:
            raise DataError(
                "The run has no development rows to look at: its study asked every row in folds.",
                "run the study again with data.development, or with `data: {folds: null}`.",
            )
        request = Request(
            strategy=source.strategy,
            champion=source.adapter_hash,
            dataset=source.data.hash,
            files={str(path): _hash_of(path) for path in data},
            augment=augment,
            share=share,
            steps=steps or max(1, round(PART_OF_RUN * source.training.steps)),
        )
        opened = open_round(run, request, resume=resume, fresh=fresh)
        if not opened.finished:
            _Round(source, request, opened.number, opened.folder, resume, stop).run()
        found = read_round(run, opened.number, source.own)
        if found.decision.accepted:
            # Last: a round that was killed before this is whole, and --resume ends up here again.
            crown(run, source.own, f"refine/round-{opened.number}/trial/adapter", opened.number)
        return read_round(run, opened.number, source.own)


def _check(run: Path, way: str | None, share: float, steps: int | None) -> None:
    study_of(run)  # before a lock is written into a folder that is none of ours
    if not 0 < share <= 1:
        raise ConfigError(f"share is {share}, outside (0, 1].", "give a share such as 0.5.")
    if steps is not None and steps < 1:
        raise ConfigError(f"steps is {steps}.", "give a whole number from 1.")
    if way is not None and AUGMENTATIONS.get(way).needs:
        raise ConfigError(
            f"{way} needs a {' and '.join(AUGMENTATIONS.get(way).needs)}, which a round has not.",
            "use eda, or make the rows with a study's data.augment and give them with --data.",
        )


def _hash_of(path: str | Path) -> str:
    if not Path(path).is_file():
        raise DataError(f"There is no file {path}.", "check the path given with --data.")
    return sha256_file(Path(path))


@dataclass
class _Round:
    """One round; the parts in the order in which they happen. What is there is not done again."""

    source: Source
    request: Request
    number: int
    folder: Path
    resume: bool
    stop: Callable[[], bool]

    def run(self) -> None:
        source, request = self.source, self.request
        adapter = source.run.adapter
        assert adapter is not None
        # Read once, before a challenger's adapter takes memory.
        champion = source.ask(
            source.data.split.dev,
            adapter,
            source.adapter_hash,
            self.folder / "champion" / "scorecard",
            "champion",
            source.run.gate,
        )
        by_id = {item.id: item for item in champion}
        proposed = self._propose([by_id[row.id] for row in self.halves.looked_at])
        held = [by_id[row.id] for row in self.halves.held_out]
        rules = acceptance.Rules(
            score=source.score,
            round=self.number,
            max_forgetting=source.study.train.max_forgetting,
        )
        hopeless = acceptance.hopeless(held, rules)
        if hopeless is not None:
            self._write(hopeless, "")
            return
        # Tasks that cannot be asked are refused now, not when the challenger stands there.
        _ = source.general
        try:
            ring = Ring(source, self.folder, self.halves)
            seed = source.study.seed + self.number
            tuned = ring.train(proposed, request.steps, seed, resume=self.resume, stop=self.stop)
        except RunFailed as error:
            self._write(acceptance.failed(error.cause, held, rules), "")
        else:
            self._write(ring.judge(tuned, proposed, held, rules), tuned.hash)

    @cached_property
    def halves(self) -> Halves:
        source = self.source
        return halves(source.data.split.dev, source.tied, source.study.seed)

    @property
    def documents(self) -> int:
        """Rows that the retraining reads."""
        return self.request.steps * self.source.study.train.batch

    def _propose(self, items: Sequence[Item]) -> list[Row]:
        """The rows of the retraining; the errors and what is proposed for them are written down."""
        source, request = self.source, self.request
        offer = offered([Path(name) for name in request.files], source.data, source.study)
        rows_ND = self._vectors(offer.rows)
        looked = self.halves.looked_at
        looked_ND = self._vectors(looked)
        room = max(1, round(request.share * self.documents))
        found = find_errors(looked, items, looked_ND, source.score, room, offer.rated)
        if not found.numbers:
            shutil.rmtree(self.folder)
            raise DataError(
                f"The champion has all {len(items)} development rows right that are looked at.",
                "there is nothing to refine; see with --watch whether new questions are others.",
            )
        write_json(self.folder / "errors.json", asdict(found.errors))
        wanted = max(1, room // 2) if request.augment else room
        chosen, left = choose(offer.rows, rows_ND, found, looked_ND[found.numbers], wanted)
        made = variants(source, [one.row for one in chosen], request.augment, self.number)
        rows = [one.row for one in chosen] + [row for x in made for row in x.rows]
        own = [row for row in source.data.split.train if row.provenance is None]
        read, times = reading(rows, own, self.documents, request.share, source.study.seed)
        # A training row that is not read again is not dropped.
        left = left if offer.reads else []
        aside = Counter(x.reason for x in [*offer.set_aside, *left])
        self._write_data(rows, offer.reads, [*offer.set_aside, *left], made)
        for result in [*offer.reads, *made]:
            aside.update(x.reason for x in result.set_aside)
        records = sum(x.records for x in offer.reads) if offer.reads else len(offer.rows)
        proposal = Proposal(
            source="data" if offer.reads else "repeated",
            offered=records,
            chosen=len(chosen),
            made=len(rows) - len(chosen),
            set_aside=dict(sorted(aside.items())),
            changed=offer.changed,
            times=times,
            old=len(read) - times * len(rows),
        )
        write_json(self.folder / "proposal.json", asdict(proposal))
        self._write_reasons(chosen, found)
        return read

    def _vectors(self, rows: Sequence[Row]) -> np.ndarray:
        texts = [question(row) or answer(row) for row in rows]
        cache = self.source.folder / "vectors"
        return default_encoder().encode(texts, self.source.listen, cache=cache)

    def _write_data(
        self,
        rows: Sequence[Row],
        reads: Sequence[ReadResult],
        aside: Sequence[SetAside],
        made: Sequence[ReadResult],
    ) -> None:
        split = Split(train=tuple(rows), dev=(), test=(), merged_groups=(), facts={})
        if not reads:
            own = [row for row in rows if row.provenance is None]
            reads = [as_read("training rows", self.source.data.hash, len(own), own, [])]
        write_dataset(self.folder / "data", split, aside, [*reads, *made])

    def _write_reasons(self, chosen: Sequence[Chosen], found: Found) -> None:
        lines = [
            {
                "id": one.row.id,
                "file": one.row.file,
                "line": one.row.line,
                "cluster": found.errors.clusters[one.cluster].name,
                "cosine": round(one.cosine, 4),
            }
            for one in chosen
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomic(self.folder / "reasons.jsonl", text)

    def _write(self, decision: Decision, challenger: str) -> None:
        write_json(self.folder / "decision.json", asdict(decision))
        names = (REQUEST, "errors.json", "proposal.json", "reasons.jsonl", "decision.json")
        source = self.source
        data = read_manifest(self.folder / "data", "dataset", verify=False)["hash"]
        seal(
            self.folder,
            KIND,
            [self.folder / name for name in names],
            parents={
                "dataset": source.data.hash,
                "proposed": data,
                "champion": source.adapter_hash,
                "challenger": challenger,
                "base": source.run.base.sha256,
                **({"gate": source.run.gate.hash} if source.run.gate else {}),
            },
            facts={"score": source.score},
        )
