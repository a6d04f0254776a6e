"""The table of a running study, as a terminal shows it."""

import io
import re
import signal
import sys

import pytest

from domainwright.cli import _screen
from domainwright.cli._standings import table
from domainwright.core.progress import Standing, Step
from tests.studies import world

pytestmark = pytest.mark.usefixtures("quick")
CONTROL = re.compile(r"\x1b\[\?\d+[hl]|\x1b\[[\d;]*m|\x1b\[(\d*)([A-Z])")
SCORE = "bits per byte 1.02 [0.97, 1.07]"
STANDINGS = (
    Standing("zero_shot", "done", score=SCORE),
    Standing("lora", "running", "training step 1200 of 1500"),
    Standing("rag_few_shot", "failed"),
    Standing("prefix+rag_few_shot"),
)


class Terminal(io.StringIO):
    """Takes what is written and knows what would be seen after each write."""

    def __init__(self):
        super().__init__()
        self.lines, self.row, self.frames = [""], 0, []

    def isatty(self):
        return True

    def write(self, text):
        place = 0
        for found in [*CONTROL.finditer(text), None]:
            for part in re.findall(r"[\r\n]|[^\r\n]+", text[place : found and found.start()]):
                self._put(part)
            if found is None:
                break
            place = found.end()
            if found[2] == "A":
                self.row -= int(found[1] or 1)
            elif found[2] == "K":
                self.lines[self.row] = ""
        self.frames.append("\n".join(self.lines))
        return len(text)

    def _put(self, part):
        if part == "\n":
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif part != "\r":
            self.lines[self.row] += part


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def start():
        seen = Terminal()
        monkeypatch.setattr("sys.stderr", seen)
        return seen

    return start


def drawn(terminal, *steps):
    """Every frame of these steps."""
    seen = terminal()
    bars = _screen._Bars()
    for step in steps:
        bars.show(step)
        bars.live.refresh()
    bars.close()
    return seen


def test_every_strategy_has_a_line_that_fits_eighty_columns(terminal):
    step = Step("train lora", 1200, 1500, {"loss": "1.93"}, STANDINGS, 250.0)
    frames = drawn(terminal, step).frames
    frame = next(f for f in frames if "state" in f)
    assert re.search(r"^zero_shot +done +bits per byte 1\.02 \[0\.97, 1\.07\]$", frame, re.M)
    assert re.search(r"^lora +training step 1200 of 1500 *$", frame, re.M)
    assert re.search(r"^rag_few_shot +failed *$", frame, re.M)
    assert re.search(r"^prefix\+rag_few_shot +waiting *$", frame, re.M)
    assert re.search(r"^2 of 4 strategies, 0:00 passed, about 4:10 left", frame, re.M)
    assert re.search(r"^train lora .*1200/1500.*loss 1\.93", frame, re.M)
    assert max(len(line) for f in frames for line in f.split("\n")) <= 80


def test_no_frame_is_without_its_table(terminal):
    steps = [Step("train lora", n, 9, {}, STANDINGS, 9.0 - n) for n in range(1, 9)]
    frames = drawn(terminal, *steps).frames
    shown = ["prefix+rag" in frame for frame in frames]
    first = shown.index(True)
    last = len(shown) - 1 - shown[::-1].index(True)
    assert all(shown[first : last + 1])


def test_what_was_measured_stays_when_the_table_goes(terminal):
    over = Step("strategies", 1, 4, {"zero_shot": SCORE}, STANDINGS)
    seen = drawn(terminal, over, Step("train lora", 1, 9, {}, STANDINGS))
    last = [line.rstrip() for line in seen.lines if line.strip()]
    assert last == [f"1 of 4  zero_shot {SCORE}"]


def test_without_a_study_one_line_moves(terminal):
    seen = drawn(terminal, Step("probe", 0, 1), Step("train lora", 2, 9, {"loss": "2.0"}))
    assert any(re.search(r"^train lora .*2/9.*loss 2\.0", f, re.M) for f in seen.frames)
    assert not any("strategies" in f for f in seen.frames)


@pytest.mark.parametrize(("width", "lines"), [(40, 3), (79, 10), (80, 6)])
def test_many_strategies_in_a_small_terminal(width, lines):
    from rich.console import Console

    many = tuple(Standing(f"s{n}", "done", score=SCORE) for n in range(12))
    many += (Standing("now", "running", "asking 3 of 9"), *STANDINGS)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(many, width, lines))
    text = console.export_text()
    assert re.search(r"^now +asking 3 of 9", text, re.M)
    assert len(text.splitlines()) == lines + 2 and f"and {17 - lines} more" in text
    assert "1.02 [0.97" in text and max(map(len, text.splitlines())) <= width


def test_a_study_fills_the_table_in(terminal, dw, base, tmp_path):
    study = world.study_file(tmp_path, base, strategies=["zero_shot", "lora"], seeds=2)
    seen = terminal()
    assert dw("decide", study, "-o", tmp_path / "run").code == 0
    text = "\n".join(seen.frames)
    assert re.search(r"^lora +waiting", text, re.M)
    assert re.search(r"^zero_shot +done +token F1 \d\.\d\d \[", text, re.M)
    assert re.search(r"^1 of 2 strategies, \d+:\d\d passed, about \d+:\d\d left", text, re.M)
    last = [line.rstrip() for line in seen.lines if line.strip()]
    assert [x.split("  ")[0] for x in last if " of 2 " in x] == ["1 of 2", "2 of 2"]
    assert "state" not in "\n".join(seen.lines)


class Interrupted(io.RawIOBase):
    """Where Ctrl-C comes in the middle of a write."""

    def __init__(self):
        self.got, self.came = b"", False

    def writable(self):
        return True

    def write(self, data):
        if not self.came:
            self.came = True
            signal.raise_signal(signal.SIGINT)
        self.got += bytes(data)
        return len(data)


def test_ctrl_c_in_the_middle_of_a_line_is_answered_after_it(monkeypatch):
    raw = Interrupted()
    screen = io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True)
    monkeypatch.setattr(sys, "stderr", screen)
    with _screen.progress() as (listen, stop), pytest.raises(KeyboardInterrupt):
        listen(Step("retention base", 0, 2))
    assert stop()
    said = raw.got.decode().splitlines()
    assert said == ["retention base  0/2", "stopping after this step (once more: at once)"]
