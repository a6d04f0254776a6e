"""The question alone, with the domain's instruction if there is one: the base to beat."""

from domainwright.core.records import Row
from domainwright.models.forms import Prompt
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._sources import Sources, ask


@PROMPTINGS.register
class ZeroShot:
    summary = "The question alone."
    needs: tuple[str, ...] = ()

    def __init__(self, sources: Sources) -> None:
        self.settings = sources.settings

    def prompt(self, row: Row) -> Prompt:
        return ask(row, self.settings)
