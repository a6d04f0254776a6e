"""The last step of curation, where it is asked for: some of the kept rows, the others dropped."""

from collections.abc import Collection

import numpy as np

from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener, Step
from domainwright.curate._chunks import Workshop
from domainwright.curate.content import content
from domainwright.curate.read import ReadResult
from domainwright.curate.select import (
    SelectSettings,
    bags_of,
    left_out,
    target_vectors_of,
    vectors_of,
)
from domainwright.curate.selection import Seen
from domainwright.curate.selection.relevance import target_bag

SEED = 0


def check_without_base(wanted: SelectSettings) -> None:
    """Refuse a selection for which a base must read the rows, or a target is missing.

    Raises:
        ConfigError: curation has no base, and no documents to aim at.
    """
    if wanted.needs_base:
        raise ConfigError(
            f"{wanted.method} needs a base that reads the rows, and curation has none.",
            "take k_center, facility_location, dpp, relevance, likeness or random, or select in a "
            "study: "
            f"`data: {{select: {{method: {wanted.method}, rows: {wanted.rows}}}}}`.",
        )
    if wanted.needs_target and wanted.target is None:
        raise ConfigError(
            f"{wanted.method} needs a target that the rows should be like.",
            "add --target FILE_OR_FOLDER.",
        )


def unpicked(
    wanted: SelectSettings,
    target: ReadResult | None,
    shop: Workshop,
    pieces: int,
    copied: Collection[int],
    listen: Listener,
) -> dict[int, tuple[str, str]]:
    """Row number -> (reason, detail) of the rows that are not chosen.

    Args:
        target: what relevance and likeness aim at.
        copied: numbers of rows that are no candidates.

    Raises:
        ConfigError: more rows are wanted than are left.
    """
    selection, numbers = wanted.selection(), list[int]()
    vectors, bags, number = list[np.ndarray](), list[np.ndarray](), 0
    for piece in range(pieces):
        rows = []
        for row in shop.rows(piece):
            if number not in copied:
                rows.append(row)
                numbers.append(number)
            number += 1
        if rows and "vectors" in selection.needs:
            # Kept with the pieces: after a kill no text is read twice.
            vectors.append(vectors_of(rows, cache=shop.folder))
        if "bags" in selection.needs:
            bags += bags_of(rows)
        listen(Step("select", piece, pieces))
    wanted.check(len(numbers))
    aim = [content(row) for row in target.rows] if target else []
    known = Seen(
        count=len(numbers),
        seed=SEED,
        vectors_ND=np.concatenate(vectors) if vectors else None,
        target_vectors_MD=(
            target_vectors_of(aim, cache=shop.folder)
            if "target_vectors" in selection.needs
            else None
        ),
        bags_N=bags,
        target_B=target_bag(aim) if "bags" in selection.needs else None,
    )
    chosen = selection.choose(known, wanted.rows)
    listen(Step("select", pieces, pieces))
    return {numbers[n]: why for n, why in left_out(wanted, chosen, len(numbers)).items()}
