"""Jobs on a tiny base, for the tests of the loop and for the processes that get killed."""

from pathlib import Path
from typing import Any

from domainwright.methods import METHODS
from domainwright.models.base import Base
from domainwright.train.loop import Job
from domainwright.train.settings import TrainSettings
from tests.tiny import tiny_base, train_rows

LENGTHS = (9, 14, 5, 22, 7, 11, 16, 6)


def make_job(
    folder: Path,
    *,
    base: Base | None = None,
    steps: int = 12,
    rate: float = 2e-2,
    micro: int = 40,
    method: dict[str, Any] | None = None,
    **changes: Any,
) -> Job:
    """Training rows double as development rows, so a few steps do learn something."""
    base = base or tiny_base()
    lora = METHODS.get("lora")
    settings = {"batch": 3, "checks": 3, "checkpoint_every": 5, "max_forgetting": 50.0}
    fields = {k: changes.pop(k) for k in list(changes) if k in Job.__dataclass_fields__}
    rows = train_rows(LENGTHS)
    return Job(
        **{
            "base": base,
            "adapter": lora.build(base, lora.Settings(**(method or {"rank": 4})), 0),
            "rows": rows,
            "development": rows[:4],
            "general": train_rows((8, 13), seed=9),
            "settings": TrainSettings(**{**settings, **changes}),
            "steps": steps,
            "learning_rate": rate,
            "micro_tokens": micro,
            "seed": 5,
            "folder": folder,
            "run_hash": "abc",
            **fields,
        }
    )
