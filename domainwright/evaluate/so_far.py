"""The marks of what is answered already, told with every step of an exam that goes on."""

from dataclasses import replace

from domainwright.core.progress import Listener, Step


class SoFar:
    """A listener in between, which adds the marks that it knows."""

    def __init__(self, listen: Listener) -> None:
        self.listen = listen
        self.marks: list[tuple[str, float]] = []

    def add(self, group: str, mark: float) -> None:
        """One item of that group is answered, and marked so."""
        self.marks.append((group, mark))

    def __call__(self, step: Step) -> None:
        self.listen(replace(step, marks=self.marks))
