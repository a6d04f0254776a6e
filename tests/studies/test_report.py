"""The report as a browser and a suspicious reader meet it."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from domainwright.studies.report import render, write_report
from tests.studies.verdicts import result, training, verdict, with_hostile_text

VOID = {"meta", "link", "br", "wbr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; an unbalanced tag is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


def test_names_every_strategy_and_says_why_some_are_missing():
    text = Page(render(verdict())).text
    for name in ("zero_shot", "rag", "lora", "lora+rag", "prefix", "qlora"):
        # Names may break after a plus or an underscore.
        assert name in text.replace("+ ", "+").replace("_ ", "_")
    assert "failed The run diverged at step 12." in text
    assert "skipped This machine has no CUDA device." in text


def test_figures_stand_with_their_intervals_and_decisions():
    text = Page(render(verdict())).text
    assert "0.44 [0.39, 0.49]" in text
    assert "+0.26 [+0.22, +0.30]" in text
    assert "+0.03 [−0.01, +0.07]" in text and "not decided" in text
    assert "none: same weights" in text
    assert "over limit 0.05" in text
    assert "2.3 GB" in text and "4.88 M" in text


def test_a_difference_that_only_holds_alone_is_marked():
    only = result("rag", 0.3, 0.1, p_holm=0.08)
    text = Page(render(verdict(result("zero_shot", 0.2, None), only, best="rag"))).text
    assert "not after Holm" in text


def test_rows_add_up_in_print():
    text = Page(render(verdict())).text
    assert "1,284 = 1,280 + 4" in text
    assert "890 to train + 128 to choose settings + 252 to test = 1,270" in text
    assert "1,280 kept rows, less 10 taken out before splitting, make 1,270" in text
    assert "does not add up" not in text


def test_rows_that_are_lost_raise_an_alarm():
    given = verdict()
    source = replace(given.data.sources[0], kept=1270)
    broken = replace(given, data=replace(given.data, sources=[source]))
    assert "does not add up: 10 unaccounted for" in Page(render(broken)).text


def test_asks_the_network_for_nothing():
    page = render(verdict())
    assert not re.search(r"https?:|url\(|@import|<img|<iframe", page)
    for _tag, attributes in Page(page).tags:
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
        assert "src" not in attributes


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "'\"><img src=x onerror=alert(1)>",
        "{{ 7 * 7 }}{% raw %}",
        "</style></pre></svg><b>",
    ],
)
def test_hostile_text_stays_text(text):
    calm, page = Page(render(verdict())), Page(render(with_hostile_text(verdict(), text)))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in calm.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert text.split()[0] in page.text


def test_content_policy_allows_the_one_script():
    import base64
    import hashlib

    page = render(verdict())
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_one_strategy_is_a_report_without_comparison():
    text = Page(render(verdict(result("zero_shot", 0.18, None), best="zero_shot"))).text
    assert "the reference" in text
    assert "Gain over the untouched base" not in text and "best at" not in text


def test_nothing_trained_shows_no_curves():
    text = Page(
        render(verdict(result("zero_shot", 0.2, None), result("rag", 0.4, 0.2), best="rag"))
    ).text
    assert "all runs on one scale" not in text and "Gain over the untouched base" in text


def test_nothing_finished_still_reports():
    from tests.studies.verdicts import absent

    text = Page(render(verdict(absent("lora", "failed", "Out of memory."), best="lora"))).text
    assert "No strategy finished" in text and "Out of memory." in text


def test_twelve_strategies_fit():
    many = [
        result(f"method_{n}", 0.2 + n / 50, n / 50, lost=n / 200, kind="method")
        for n in range(1, 12)
    ]
    page = render(verdict(result("zero_shot", 0.2, None), *many, best="method_11"))
    assert all(f">{r.name}</text>" in page for r in many)
    assert len(page) < 300_000


def test_shared_training_is_drawn_once():
    assert "lora+rag, lora" in Page(render(verdict())).text


def test_a_long_and_wild_history_stays_small_and_inside():
    history = [
        {"step": n, "loss": float("nan") if n % 7 == 0 else 1e6 if n > 19_990 else 2.0}
        for n in range(1, 20_000)
    ]
    wild = replace(
        result("lora", 0.4, 0.2, lost=0.01, kind="method"),
        training=training(history=history, steps=20_000),
    )
    page = render(verdict(result("zero_shot", 0.2, None), wild))
    assert len(page) < 150_000
    assert "nan" not in page.lower().replace("finance", "")


def test_missing_figures_are_called_so():
    bare = replace(
        result("lora", 0.4, 0.2, kind="method"),
        parsed=None,
        tokens_in=None,
        tokens_out=None,
        seconds_per_answer=None,
        metrics={},
    )
    text = Page(render(verdict(result("zero_shot", 0.2, None), bare))).text
    assert "not measured" in text and "n/a" in text


def test_unparsed_replies_are_told_beside_the_score():
    deaf = replace(result("lora", 0.4, 0.2, lost=0.0, kind="method"), parsed=0.8)
    text = Page(render(verdict(result("zero_shot", 0.2, None), deaf))).text
    assert "answer found in 80.0 %" in text


def test_accuracies_are_percentages():
    text = Page(render(verdict(score="accuracy_norm"))).text
    assert "44.0 % [39.0, 49.0]" in text and "+26.0 pp [+22.0, +30.0]" in text


def test_bits_per_byte_lose_their_sign_and_fall_when_better():
    results = result("zero_shot", -1.02, None), result("lora", -0.92, 0.1, lost=0.01, kind="method")
    text = Page(render(verdict(*results, score="negative_bits_per_byte"))).text
    assert "Bits per byte (lower is better)" in text
    assert "1.02 [0.97, 1.07]" in text and "−0.100 [−0.140, −0.060]" in text


def test_is_written_to_its_path(tmp_path):
    write_report(verdict(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text("utf-8") == render(verdict())
