"""Kin of few_shot and rag, and the instruction that is chosen: what sets each of them apart."""

import pytest

from domainwright.core.errors import ConfigError
from domainwright.core.records import Choice
from domainwright.models import embedded
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._sources import MARKERS, PromptSettings, Sources
from domainwright.prompting.instructed import PHRASINGS
from tests.prompting.test_prompting import DOCUMENTS, ROWS, count_tokens
from tests.tiny import chat

needs_encoder = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        embedded.package_folder(embedded.ENCODER_PACKAGE) is None
        or embedded.package_folder(embedded.GGUF_PACKAGE) is None,
        reason="the packages of the embedded models are not installed (`make setup`)",
    ),
]


ABOUT = "Answer in about 4 words."
"""The median length of the answers in ROWS."""


def sources(**changes):
    values = {
        "examples": ROWS,
        "documents": DOCUMENTS,
        "settings": PromptSettings(examples=2, passages=1),
        "count_tokens": lambda text: len(text.split()),
    }
    return Sources(**values | changes)


class TestInstructed:
    def losses(self, best):
        """Rows are likelier after `best`; the others differ by their length alone."""

        def measure(rows, prompts):
            self.read += len(rows)
            said = [
                next((m.content for m in p.messages if m.role == "system"), None) for p in prompts
            ]
            return [1.0 if text == best else 2.0 + len(text or "") / 1000 for text in said]

        self.read = 0
        return measure

    @pytest.mark.parametrize("best", [PHRASINGS[3], "Mine.", ABOUT, None])
    def test_takes_what_makes_the_right_answers_likeliest(self, best):
        settings = PromptSettings(instruction="Mine.")
        made = PROMPTINGS.get("instructed")(
            sources(settings=settings, development=ROWS[:3], losses=self.losses(best))
        )
        assert self.read == 3 * (len(PHRASINGS) + 2)
        assert made.note == (best or "")
        messages = made.prompt(ROWS[0]).messages
        assert [m.content for m in messages if m.role == "system"] == ([best] if best else [])
        assert messages[-1].content == ROWS[0].question

    def test_without_development_rows_it_is_the_plain_prompt(self):
        made = PROMPTINGS.get("instructed")(sources(losses=self.losses("Mine.")))
        plain = PROMPTINGS.get("zero_shot")(sources())
        assert made.prompt(ROWS[0]) == plain.prompt(ROWS[0]) and self.read == 0

    def test_an_instruction_is_no_setting_that_fits_nothing(self):
        with pytest.raises(ConfigError):
            PromptSettings(examples=0)


def test_random_examples_are_a_draw_that_repeats():
    made = PROMPTINGS.get("few_shot_random")(sources())
    again = PROMPTINGS.get("few_shot_random")(sources())
    asked = [chat(f"Question {n}?", "x", name=f"t{n}", group=f"t{n}") for n in range(30)]
    shown = [made.prompt(row).examples for row in asked]
    assert shown == [again.prompt(row).examples for row in asked]
    assert {len(x) for x in shown} == {2} and len({i for x in shown for i in x}) == len(ROWS)
    own = [made.prompt(row).examples for row in ROWS]
    assert all(row.id not in ids for row, ids in zip(ROWS, own, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "rag_bm25",
        pytest.param("rag_dense", marks=needs_encoder),
        pytest.param("rag", marks=needs_encoder),
    ],
)
def test_each_search_finds_what_it_can(name):
    made = PROMPTINGS.get(name)(sources(count_tokens=count_tokens if name != "rag_bm25" else len))
    (found,) = made.prompt(
        chat("Which arachnids spin webs from silk?", "x", name="t", group="t")
    ).passages
    assert found.startswith("Spiders")


def test_words_alone_make_no_vectors(monkeypatch):
    from domainwright.prompting import _index

    def never(*_):
        raise AssertionError("vectors were asked for")

    monkeypatch.setattr(_index, "default_encoder", never)
    made = PROMPTINGS.get("rag_bm25")(sources())
    assert made.prompt(chat("Which planet is the largest?", "x", name="t", group="t")).passages
    assert not made.prompt(chat("Zzyzx?", "x", name="t", group="t")).passages


class TestRagFewShot:
    pytestmark = needs_encoder

    def made(self, **settings):
        settings = PromptSettings(**{"examples": 2, "passages": 1} | settings)
        return PROMPTINGS.get("rag_few_shot")(sources(settings=settings, count_tokens=count_tokens))

    def test_every_example_and_the_question_have_passages(self):
        row = chat("Which arachnids spin webs from silk?", "x", name="t", group="t")
        prompt = self.made().prompt(row)
        assert len(prompt.examples) == 2 and prompt.passages[0].startswith("Spiders")
        asked = [m.content for m in prompt.messages if m.role == "user"]
        assert len(asked) == 3 and all("[1] " in text for text in asked)
        answers = [m.content for m in prompt.messages if m.role == "assistant"]
        by_id = {r.id: r.answer for r in ROWS}
        assert answers == [by_id[i] for i in prompt.examples][::-1]

    @pytest.mark.parametrize("room", [40, 80, 160, 320])
    def test_keeps_to_the_budget(self, room):
        made = self.made(context_tokens=room, examples=8, passages=3)
        for row in ROWS:
            prompt = made.prompt(row)
            plain = count_tokens(row.question)
            turns = sum(count_tokens(m.content) for m in prompt.messages)
            assert turns + MARKERS * (len(prompt.messages) // 2) <= room + plain + MARKERS
            assert row.id not in prompt.examples

    def test_choices_are_blocks_of_text(self):
        rows = [
            Choice(id=f"c{n}", group=f"c{n}", file="f", line=n, question=q, choices=("yes", "no"),
                   answer=n % 2)
            for n, q in enumerate(("Do spiders spin webs?", "Is Jupiter large?", "Is it a planet?"))
        ]  # fmt: skip
        made = PROMPTINGS.get("rag_few_shot")(
            sources(examples=rows, settings=PromptSettings(examples=1), count_tokens=count_tokens)
        )
        text = made.prompt(rows[0]).text
        assert text.count("\nAnswer:") == 2 and text.endswith("Answer:")
        assert text.index("[1] ") < text.index("\nAnswer: ") < text.rindex("[1] ")


@pytest.mark.parametrize("name", ["few_shot", "few_shot_random", "rag_few_shot"])
def test_rows_without_room_are_counted_once_and_not_with_every_item(name):
    counted = []

    def count(text):
        counted.append(text)
        return len(text.split())

    settings = PromptSettings(examples=2, passages=1, context_tokens=1)
    made = PROMPTINGS.get(name)(sources(settings=settings, count_tokens=count))
    for row in ROWS:
        made.prompt(row)
    assert len(counted) == len(set(counted)) > len(ROWS)
