"""Tagged sentences through a whole study: by prompt, tuned on lists, and with a head for tags."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from domainwright.cli._verdict import show
from domainwright.cli.main import app
from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.core.records import Extraction, Tagged
from domainwright.curate.dataset import read_dataset
from domainwright.curate.tagged import Kinds, as_extractions, kinds_of
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.tasks import TASKS, entities
from domainwright.maths.listed import listed, read_listed
from domainwright.maths.spans import spans_of
from domainwright.methods import METHODS
from domainwright.methods._head import HeadedAdapter
from domainwright.models.forms import Prompt, encode_rows, tagged_rows, word_tokens
from domainwright.prompting._sources import PromptSettings, ask
from domainwright.studies._asked import as_asked, prompters_of
from domainwright.studies._exam import suite_of
from domainwright.studies._labels import labels_of
from domainwright.studies._scorecards import read_items
from domainwright.studies.api import decide, load_run, plan, train_method
from domainwright.studies.data import prepare
from domainwright.studies.entities import EntityScore, entity_scores, told
from domainwright.studies.export import export
from domainwright.studies.judge import pooled
from domainwright.studies.records import read_verdict
from domainwright.studies.refine.proposal import offered
from domainwright.studies.refine.source import open_source
from domainwright.studies.score import score_file
from domainwright.studies.study import read_study
from domainwright.train.settings import TrainSettings
from tests.studies.test_asked import pytestmark as needs_embedded
from tests.studies.world import PLANTS, documents, questions, small_suite, study_file, write_lines
from tests.tiny import tiny_base

COLOURS = ("red", "blue", "white")


def sentences(plants=PLANTS):
    """Sixty sentences in twenty groups; a word tells by itself what it is."""
    found = []
    for place, plant in enumerate(plants):
        colour = COLOURS[place % 3]
        for number, words in enumerate(
            (
                f"the {plant} is {colour} in spring",
                f"near the water grows {colour} or {plant} grass",
                "nothing of it was sold",
            )
        ):
            split = words.split()
            tags = ["B-COLOUR" if w == colour else "B-PLANT" if w == plant else "O" for w in split]
            if number == 1:
                tags[-1] = "I-PLANT"
            found.append({"id": f"{plant}-{number}", "group": plant, "tokens": split, "tags": tags})
    return found


HEADED = {
    "strategies": ["zero_shot", "lora", "ptuning_v2"],
    "methods": {"ptuning_v2": {"rows": 4}},
    "train": {"head": True, "steps": 60, "batch": 8, "learning_rate": 0.03},
    "data": {"test_share": 0.4},
    "evaluate": {"items": 24, "new_tokens": 8},
}


@pytest.fixture(scope="module")
def headed(tmp_path_factory, base):
    """A decided study whose methods train a head: (folder of the run, verdict)."""
    folder = tmp_path_factory.mktemp("entities")
    with pytest.MonkeyPatch.context() as patch:
        small_suite(patch)
        file = study_file(folder / "study", base, sentences(), **HEADED)
        assert plan(file).run_of("lora").fits
        decided = decide(file, folder / "run")
    return folder / "run", decided.verdict


def items_of(run, name):
    folder = run / "trials" / name / "scorecard"
    parents = json.loads((folder / "manifest.json").read_text())["parents"]
    return read_items(folder, parents, "items.jsonl")


class TestWithAHead:
    def test_it_learns_the_tags_and_lists_are_asked_for_the_same_sentences(self, headed):
        run, verdict = headed
        by_name = {r.name: r for r in verdict.strategies}
        assert {r.status for r in by_name.values()} == {"done"}
        assert (verdict.task, verdict.score) == ("entities", "entity_f1")
        assert verdict.data.sources[0].format == "tagged"
        items = items_of(run, "lora")
        assert [x.id for x in items] == [x.id for x in items_of(run, "zero_shot")]
        assert {x.tokens_out for x in items} == {0} and all(x.mark.parsed for x in items)
        score = by_name["lora"].score.mean
        assert score == pytest.approx(np.mean([x.mark.correct for x in items])) and score > 0.5
        assert by_name["zero_shot"].score.mean < 0.2
        # The base guesses among the tags: log 5 nats a word.
        first = by_name["lora"].training.history[0]
        assert first["development_loss"] == pytest.approx(np.log(5))

    def test_the_verdict_counts_all_entities_and_every_type(self, headed):
        run, verdict = headed
        rows = {r.id: r for r in read_dataset(run / "dataset").test}
        for result in verdict.strategies:
            right, given, true = 0, 0, 0
            for item in items_of(run, result.name):
                row = rows[item.id]
                own = set(spans_of(row.tags))
                read = read_listed(item.reply, row.words, row.kinds)
                right += len(own & set(read.spans))
                given += len(read.spans) + len(read.strange)
                true += len(own)
            every, *kinds = result.entities
            assert (every.kind, every.right, every.given, every.true) == (None, right, given, true)
            assert {x.kind for x in kinds} >= {"COLOUR", "PLANT"}
            assert sum(x.true for x in kinds) == true > 0
            assert every.f1 == pytest.approx(2 * right / max(1, given + true))
        assert read_verdict(run / "verdict.json") == verdict
        page = (run / "report.html").read_text()
        assert "Entities by type" in page and "all (micro)" in page
        assert "entity F1 (mean over rows)" in page

    def test_the_adapter_answers_the_same_when_it_is_loaded(self, headed):
        run, _ = headed
        loaded = load_run(run, "ptuning_v2")
        assert isinstance(loaded.adapter, HeadedAdapter)
        assert loaded.adapter.head.kind == "labelling"
        assert loaded.adapter.head.labels == (*("O", "B-COLOUR", "I-COLOUR", "B-PLANT", "I-PLANT"),)
        rows = {r.id: r for r in read_dataset(run / "dataset").test}
        for item in items_of(run, "ptuning_v2"):
            assert loaded.chat(rows[item.id].question) == item.reply

    def test_evaluate_and_chat(self, headed, tmp_path):
        run, _ = headed
        file = write_lines(tmp_path / "few.jsonl", sentences(PLANTS[:3]))
        done = CliRunner().invoke(app, ["evaluate", str(run), "--data", str(file), "--json"])
        assert done.exit_code == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["task"], found["score"], found["items"]) == ("entities", "entity_f1", 9)
        assert found["entities"][0]["kind"] is None and found["entities"][0]["true"] == 12
        plain = CliRunner().invoke(app, ["evaluate", str(run), "--data", str(file)])
        assert "micro-F1" in plain.stdout and "over 12 entities: COLOUR" in plain.stdout
        said = [
            "chat",
            str(run),
            "--strategy",
            "lora",
            "-q",
            "the alder is red in spring",
            "--json",
        ]
        done = CliRunner().invoke(app, said)
        assert done.exit_code == 0, done.stderr
        answer = json.loads(done.stdout)["answer"]
        assert answer == "none" or all(": " in line for line in answer.split("\n"))

    def test_the_terminal_tells_every_type(self, headed, capsys):
        run, verdict = headed
        show(verdict, run)
        said = " ".join(capsys.readouterr().out.split())
        lora = next(r for r in verdict.strategies if r.name == "lora")
        assert f"lora: {told(lora.entities)}." in said

    def test_other_types_are_refused(self, headed, tmp_path):
        run, _ = headed
        row = {"tokens": ["a"], "tags": ["B-PRICE"]}
        file = write_lines(tmp_path / "a.jsonl", [row])
        with pytest.raises(DataError, match="'PRICE', and the run knows COLOUR, PLANT"):
            score_file(str(run), file, items=3, new_tokens=2)

    def test_export(self, headed, tmp_path):
        run, verdict = headed
        assert verdict.recommendation.strategy != "zero_shot"
        export(run, tmp_path / "out", "peft")
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert config["task_type"] == "TOKEN_CLS"
        with pytest.raises(CapabilityError, match="cannot be merged"):
            export(run, tmp_path / "merged", "merged")

    def test_new_rows_of_a_refined_run_are_asked_for_its_types(self, headed, tmp_path):
        run, _ = headed
        source = open_source(run, "lora", lambda step: None)
        more = write_lines(tmp_path / "more.jsonl", sentences(("oak", "ash"))[:2])
        offer = offered([more], source.data, source.study)
        assert {type(r) for r in offer.rows} == {Extraction}
        assert {r.kinds for r in offer.rows} == {("COLOUR", "PLANT")} and len(offer.rows) == 2


@needs_embedded[0]
@needs_embedded[1]
@pytest.mark.usefixtures("quick")
def test_a_choice_is_made_by_itself_and_a_gate_fits(base, tmp_path):
    changes = {"strategies": "auto", "data": {"documents": "pages.jsonl"}}
    file = study_file(tmp_path / "auto", base, sentences(), **changes, train={"head": True})
    write_lines(file.parent / "pages.jsonl", documents())
    names = [r.name for r in decide(file, tmp_path / "run").strategies if r.status == "done"]
    assert names[:6] == ["zero_shot", "instructed", "few_shot", "rag", "rag_few_shot", "lora"]
    changes = {"strategies": ["zero_shot", "lora", "lora+gated"], "train": {"head": True}}
    file = study_file(tmp_path / "gated", base, sentences(), **changes)
    decided = decide(file, tmp_path / "gated run")
    assert [r.status for r in decided.strategies] == ["done"] * 3
    assert all(r.entities for r in decided.strategies)


class TestWithoutAHead:
    @needs_embedded[0]
    @needs_embedded[1]
    @pytest.mark.usefixtures("quick")
    def test_every_strategy_of_conversations(self, base, tmp_path):
        names = ["zero_shot", "instructed", "few_shot", "rag", "lora", "lora+rag"]
        changes = {"strategies": names, "data": {"curate": True}}
        changes["evaluate"] = {"items": 6, "new_tokens": 6, "learning_curve": True}
        file = study_file(tmp_path / "study", base, sentences(), **changes)
        decided = decide(file, tmp_path / "run")
        assert [(r.name, r.status) for r in decided.strategies] == [(n, "done") for n in names]
        assert all(not r.answered for r in decided.strategies)
        run = load_run(tmp_path / "run", "few_shot")
        row = next(
            r for r in read_dataset(tmp_path / "run" / "dataset").test if "B-PLANT" in r.tags
        )
        system, *turns, last = run.prompter.prompt(row).messages
        assert system.content == row.ask and last.content == row.question
        assert [t.role for t in turns] == ["user", "assistant"] * 4
        assert all(t.content == "none" or ": " in t.content for t in turns[1::2])
        quoted = load_run(tmp_path / "run", "rag").prompter.prompt(row)
        assert quoted.messages[-1].content.endswith(f"\nText: {row.question}")
        assert load_run(tmp_path / "run", "lora").chat("the oak is red", new_tokens=3) is not None

    def test_methods_are_trained_as_they_are_asked(self, tmp_path, base):
        settings = read_study(study_file(tmp_path / "study", base, sentences()))
        data, tiny = prepare(settings, tmp_path / "run"), tiny_base()
        prompters = prompters_of(settings, tiny, data, tmp_path / "run")
        found = as_asked(settings, data, tiny, prompters, ["zero_shot", "lora"]).lessons
        for before, after in zip(data.split.train, found.train, strict=True):
            prompt = ask(before, settings.prompting)
            assert after.messages == (*prompt.messages, before.messages[-1])
            assert (after.words, after.tags) == (before.words, before.tags)
            (encoded,) = encode_rows(tiny.template, [after], 500)
            asked = tiny.template.prompt(prompt.messages)
            assert encoded.ids[: len(asked)] == asked

    def test_the_users_instruction_stands_ahead(self):
        row = Kinds(("X", "Y", "Z")).question("a b")
        settings = PromptSettings(instruction="You read letters.")
        (system, _) = ask(row, settings).messages
        assert system.content.startswith("You read letters.\nList every X, Y and Z in the text")

    def test_general_texts_may_come_from_tagged_files(self, tmp_path, base):
        evaluate = {"retention": ["train.jsonl"]}
        file = study_file(tmp_path / "study", base, sentences(), evaluate=evaluate)
        texts = suite_of(read_study(file)).texts
        assert any(row.text == "the alder is red in spring" for row in texts)

    def test_tagged_and_other_rows_do_not_mix(self, tmp_path, base):
        files = ["train.jsonl", "more.jsonl"]
        file = study_file(tmp_path / "study", base, sentences(), data={"train": files})
        write_lines(file.parent / "more.jsonl", questions())
        with pytest.raises(DataError, match="several kinds of rows: chat, extraction"):
            prepare(read_study(file), tmp_path / "run")

    def test_types_that_cannot_be_learned_are_said(self, tmp_path, base):
        changes = {"data": {"train": "train.jsonl", "test": "test.jsonl"}}
        file = study_file(tmp_path / "study", base, sentences(PLANTS[:15]), **changes)
        rows = sentences(PLANTS[15:])
        rows[0]["tags"][0] = "B-NEW"
        write_lines(file.parent / "test.jsonl", rows)
        data = prepare(read_study(file), tmp_path / "run")
        assert {r.kinds for r in data.split.train} == {("COLOUR", "NEW", "PLANT")}
        assert any("no training row has: NEW. No method" in note for note in data.notes)


def row(words="the alder is red", tags="O B-PLANT O B-COLOUR"):
    place = {"id": "r", "group": "r", "file": "f", "line": 1}
    return Tagged(**place, words=tuple(words.split()), tags=tuple(tags.split()))


def extraction(**changes):
    return as_extractions([row(**changes)], Kinds(("COLOUR", "PLANT")))[0]


class TestTheTask:
    @pytest.mark.parametrize(
        ("reply", "score", "parsed"),
        [
            ("PLANT: alder\nCOLOUR: red", 1.0, True),
            ("COLOUR: red\nPLANT: alder", 1.0, True),
            ("PLANT: alder", 2 / 3, True),
            ("PLANT: the alder\nCOLOUR: red", 0.5, True),
            ("PLANT: alder\nCOLOUR: red\nCOLOUR: blue", 0.8, True),
            ("none", 0.0, True),
            ("It is red.", 0.0, False),
        ],
    )
    def test_marks_of_replies(self, monkeypatch, reply, score, parsed):
        (item,) = self.asked(monkeypatch, extraction(), reply)
        assert item.mark == Mark(pytest.approx(score), parsed)
        assert item.metrics == {"entity_f1": pytest.approx(score), "exact_match": score == 1}
        assert item.reference == "PLANT: alder\nCOLOUR: red"

    @pytest.mark.parametrize(
        ("reply", "mark"),
        [("none", (1.0, True)), ("Nothing here", (0.0, False)), ("PLANT: red", (0.0, True))],
    )
    def test_a_sentence_without_entities(self, monkeypatch, reply, mark):
        (item,) = self.asked(monkeypatch, extraction(tags="O O O O"), reply)
        assert item.mark == mark and item.reference == "none"

    @staticmethod
    def asked(monkeypatch, row, reply):
        """The item of a reply that the model did not really give."""
        real = entities.replies_of
        monkeypatch.setattr(
            entities, "replies_of", lambda *a, **k: [replace(x, text=reply) for x in real(*a, **k)]
        )
        prompts = [ask(row, PromptSettings())]
        run = TASKS.get("entities").run
        return run(tiny_base(), [row], prompts, decide_by="entity_f1", new_tokens=2)

    def test_a_head_of_another_kind_is_refused(self):
        base = tiny_base()
        inner = _lora(base)
        for kind, labels in (("classification", ["O", "B-X"]), ("labelling", ["LABEL_0"])):
            with (
                HeadedAdapter(inner, kind, labels).attached(),
                pytest.raises(ConfigError, match=f"knows {labels[0]}.*and words want tags"),
            ):
                TASKS.get("entities").run(
                    base, [extraction()], [Prompt()], decide_by="entity_f1", new_tokens=2
                )

    def test_words_beyond_the_context_are_no_entities(self):
        base = tiny_base()
        words = " ".join(["word"] * base.context)
        tags = " ".join(["B-PLANT"] * base.context)
        long = extraction(words=words, tags=tags)
        head = HeadedAdapter(
            _lora(base), "labelling", ["B-PLANT", "O"]
        )  # all zeros: the first wins
        with head.attached():
            (item,) = TASKS.get("entities").run(
                base, [long], [Prompt()], decide_by="entity_f1", new_tokens=2
            )
        right, given, true = item.entities["PLANT"]
        assert right == given < true == base.context and item.loss_tokens == right


def _lora(base):
    method = METHODS.get("lora")
    return method.build(base, method.Settings(), 0)


class TestTheRows:
    def test_each_word_has_its_tag_at_its_last_token(self):
        base = tiny_base()
        labels = labels_of([extraction()], TrainSettings(head=True))
        assert labels == ("labelling", ("O", "B-COLOUR", "I-COLOUR", "B-PLANT", "I-PLANT"))
        (encoded,) = tagged_rows(base.template, [extraction()], labels.names, 500)
        assert encoded.labels == (0, 3, 0, 1) and sum(encoded.supervised) == 4
        assert base.tokenizer.decode(encoded.ids) == "the alder is red"
        words = "the alder is red".split()
        ends = [n + 1 for n, on in enumerate(encoded.supervised) if on]
        texts = [base.tokenizer.decode(encoded.ids[:n]) for n in ends]
        assert texts == [" ".join(words[: n + 1]) for n in range(4)]
        assert (encoded.file, encoded.line, encoded.cut) == ("f", 1, 0)

    def test_a_row_that_is_cut_says_so_and_has_as_many_tags_as_words(self):
        base = tiny_base()
        ids, _ = word_tokens(base.template, extraction().words)
        (encoded,) = tagged_rows(base.template, [extraction()], ("O", "B-PLANT", "B-COLOUR"), 3)
        assert encoded.cut == len(ids) - 3 > 0
        assert len(encoded.labels) == sum(encoded.supervised)

    def test_rows_without_tags_want_no_head_for_tags(self, tmp_path, base):
        file = study_file(tmp_path / "study", base, train={"head": True})
        with pytest.raises(ConfigError, match="the files hold rows without choices") as caught:
            train_method(file, "lora", tmp_path / "run")
        assert "tagged sentences" in caught.value.fix


def item(name="a", **entities):
    return Item(
        id=name, group=name, question="", reference="", reply="", mark=Mark(1, True),
        entities=entities,
    )  # fmt: skip


def test_scores_of_entities_are_sums():
    scores = entity_scores([item(X=(1, 2, 2)), item(X=(1, 1, 2), Y=(0, 1, 0)), item()])
    assert [(x.kind, x.right, x.given, x.true) for x in scores] == [
        (None, 2, 4, 4),
        ("X", 2, 3, 4),
        ("Y", 0, 1, 0),
    ]
    assert scores[0].f1 == 0.5 and scores[1].precision == pytest.approx(2 / 3)
    assert isinstance(scores[0], EntityScore) and entity_scores([item()]) == []
    assert told(scores) == (
        "micro-F1 0.50 (precision 0.50, recall 0.50) over 4 entities: X 0.57 of 4, Y 0.00 of 0"
    )
    assert told([]) == ""
    assert entity_scores(pooled([[item(X=(1, 1, 1))], [item(X=(0, 1, 1))]]))[0].right == 1


def test_a_written_reference_is_marked_as_right():
    rows = [Tagged(id="r", group="r", file="f", line=1, words=("a",), tags=("B-X",))]
    (one,) = as_extractions(rows, kinds_of(rows))
    assert listed(one.words, spans_of(one.tags)) == one.answer == "X: a"
