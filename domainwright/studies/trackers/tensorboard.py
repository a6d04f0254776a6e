"""TensorBoard: event files in the study's own folder. `tensorboard --logdir runs` shows them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from domainwright.studies.trackers import TRACKERS


@TRACKERS.register
class TensorBoard:
    """It keeps no files, so of a verdict it shows the sentence and where the files lie."""

    libraries = ("tensorboard",)

    def __init__(self, name: str, folder: Path, known: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # A resumed study adds a file of events to those that are there.
        self.writer = SummaryWriter(str(folder))
        self.identity = str(folder)

    def parameters(self, values: Mapping[str, str]) -> None:
        lines = ["| setting | value |", "| --- | --- |"]
        lines += [f"| {key} | {value.replace('|', '&#124;')} |" for key, value in values.items()]
        self.writer.add_text("parameters", "\n".join(lines))

    def metrics(self, run: str, lines: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for step, values in lines:
            for name, value in values.items():
                self.writer.add_scalar(f"{run}/{name}", value, step)
        self.writer.flush()

    def result(self, strategy: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{strategy}/result/{name}", value, 0)

    def files(self, paths: Sequence[Path], sentence: str) -> None:
        self.writer.add_text("verdict", "\n\n".join([sentence, *map(str, paths)]))

    def close(self, finished: bool) -> None:
        self.writer.close()
