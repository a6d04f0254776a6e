"""What a finished study leaves in its folder; the manifest is written last."""

from collections.abc import Sequence
from pathlib import Path

from domainwright.core.artifacts import read_manifest, seal, write_json
from domainwright.studies._folder import STUDY_FILE
from domainwright.studies.card import model_card
from domainwright.studies.records import Verdict, read_verdict
from domainwright.studies.report import write_report


def write_study(
    folder: Path, verdict: Verdict, trained: Sequence[str], asked: Sequence[str], dataset: str
) -> Verdict:
    """Verdict, report and model cards; the verdict as everyone else will read it.

    Args:
        trained: methods whose adapters lie in `trials/`.
        asked: strategies that answered the test items.
        dataset: its content hash.
    """
    write_json(folder / "verdict.json", verdict.as_json())
    # Read back: the report must be the same when it is made again.
    verdict = read_verdict(folder / "verdict.json")
    write_report(verdict, folder / "report.html")
    for method in trained:
        adapter = f"trials/{method}/adapter"
        of_it = [r.name for r in verdict.strategies if r.adapter == adapter and not r.adapters]
        if not of_it:
            continue  # it was trained, and its prompts did not fit
        # A method that ran in a combination only has the combination's card.
        card = model_card(verdict, method if method in of_it else of_it[0])
        (folder / adapter / "README.md").write_text(card, encoding="utf-8")
    for result in verdict.strategies:
        for task, adapter in result.adapters.items():
            card = model_card(verdict, result.name, task)
            (folder / adapter / "README.md").write_text(card, encoding="utf-8")
    scorecards = {
        name: read_manifest(folder / "trials" / name / "scorecard")["hash"] for name in asked
    }
    seal(
        folder,
        "verdict",
        # Without report.html: `dw report` makes it anew, maybe with a newer version.
        [folder / f for f in ("verdict.json", STUDY_FILE, "plan.json")],
        parents={"dataset": dataset, **scorecards},
    )
    return verdict
