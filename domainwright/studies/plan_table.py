"""A plan as a table in plain text: what each strategy will take."""

from domainwright.studies import _format as f
from domainwright.studies.plan import Plan, StrategyPlan

HEADING = (
    "strategy", "ask min", "train min", "check min", "GB", "tokens/pass", "recompute", "fits"
)  # fmt: skip


def plan_rows(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Heading and one row per strategy, in the order in which they run."""
    return list(HEADING), [_row(s) for s in plan.strategies]


def plan_lines(plan: Plan) -> list[str]:
    """The table in aligned columns, then the whole and what was shortened."""
    heading, rows = plan_rows(plan)
    widths = [max(len(row[n]) for row in [heading, *rows]) for n in range(len(heading))]
    lines = [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [heading, *rows]
    ]
    whole = f"{f.minutes(plan.minutes)} minutes for {plan.items} test items"
    steps = f" and {plan.steps} steps of training" if any(s.run for s in plan.strategies) else ""
    twice = [r for s in plan.strategies if (r := s.run) and r.gradient_checkpointing]
    told = ["recompute: with gradient checkpointing, or the run would not fit."] if twice else []
    moved = [s.name for s in plan.strategies if s.run and s.run.offload]
    if moved:
        where = "on the disk; of a GPU, in host memory"
        told.append(f"offload, {', '.join(moved)}: the optimiser's state lies {where}.")
    return [*lines, "", f"{whole}{steps}.", *told, *plan.notes]


def _row(s: StrategyPlan) -> list[str]:
    run = s.run
    if run is None:
        return [s.name, f.minutes(s.ask_minutes), "", "", "", "", "", "yes"]
    return [
        s.name,
        f.minutes(s.ask_minutes),
        f.minutes(s.train_minutes),
        f.minutes(s.check_minutes),
        f.gigabytes(round(run.peak_mib)).removesuffix(" GB"),
        str(run.micro_tokens),
        "on" if run.gradient_checkpointing else "off",
        "yes" if run.fits else "no",
    ]
