"""What a teacher says: asked once, kept, found again, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models

from domainwright.core.artifacts import read_manifest
from domainwright.core.config import from_mapping
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.records import Text
from domainwright.models.base import load_base
from domainwright.models.forms import TrainRow
from domainwright.train import teacher as teachers
from domainwright.train.loss import batch_of, summed_loss
from domainwright.train.settings import DistilSettings, TrainSettings
from domainwright.train.teacher import dictated, find, with_blank_lessons, with_lessons
from tests.methods.test_method_contract import answer_without_cache, tuned
from tests.tiny import (
    chat,
    own_logits,
    tiny_base,
    tiny_folder,
    tiny_model,
    tiny_tokenizer,
    train_rows,
)

ROWS = train_rows((9, 14, 5, 22, 7))


def wanted(model, row, top, temperature):
    """The oracle: the model's own eager logits of one document."""
    marked = [i - 1 for i, on in enumerate(row.supervised) if on and i]
    logs = (own_logits(model, row.ids)[marked] / temperature).log_softmax(1).detach()
    kept = logs.topk(top, dim=1)
    return kept.indices, kept.values, (1 - kept.values.exp().sum(1))


def assert_said_by(model, rows, top=8, temperature=2.0):
    for row in rows:
        ids, logs, rest = wanted(model, row, top, temperature)
        assert len(row.lesson) == row.targets
        assert torch.equal(row.lesson.ids_NK.long(), ids)
        torch.testing.assert_close(row.lesson.logs_NK, logs, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(row.lesson.rest_N.exp(), rest, rtol=1e-3, atol=1e-5)


@pytest.fixture
def student(tmp_path):
    return load_base(str(tiny_folder(tmp_path / "student")), dtype="float32", device="cpu")


def test_the_base_teaches_itself(tmp_path, student):
    taught, _ = with_lessons(student, ROWS, DistilSettings(top=8), tmp_path / "said")
    assert_said_by(student.model, taught)
    assert [(r.id, r.ids) for r in taught] == [(r.id, r.ids) for r in ROWS]
    assert {(r.lesson.weight, r.lesson.temperature) for r in taught} == {(0.5, 2.0)}


def test_an_adapter_on_the_same_base_teaches(tmp_path, student):
    adapter = tuned(student, "lora", rank=2)
    adapter.save(tmp_path / "run" / "adapter")
    adapter.detach()
    settings = DistilSettings(teacher=str(tmp_path / "run"), top=8, temperature=1.0)
    assert find(settings.teacher, student).base is None
    taught, digest = with_lessons(student, ROWS, settings, tmp_path / "said")
    bare, _ = with_lessons(student, ROWS, replace(settings, teacher=None), tmp_path / "said")
    assert not torch.equal(taught[0].lesson.logs_NK, bare[0].lesson.logs_NK)
    assert_said_by(student.model, bare, temperature=1.0)  # the teacher is off again
    with adapter.attached():
        assert_said_by(student.model, taught, temperature=1.0)
    assert len(list((tmp_path / "said").iterdir())) == 2
    assert digest in {read_manifest(p)["hash"] for p in (tmp_path / "said").iterdir()}


def test_another_base_with_an_adapter_teaches(tmp_path, student):
    """Larger, of another family, with the same tokens: and with a padded vocabulary."""
    model = tiny_model("qwen2", num_hidden_layers=3, vocab_size=352)
    model.save_pretrained(tmp_path / "large")
    tiny_tokenizer().save_pretrained(tmp_path / "large")
    large = load_base(str(tmp_path / "large"), dtype="float32", device="cpu")
    adapter = tuned(large, "ia3")
    adapter.save(tmp_path / "expert")
    settings = DistilSettings(teacher=str(tmp_path / "expert"), top=8)
    taught, _ = with_lessons(student, ROWS, settings, tmp_path / "said")
    inside = torch.cat([r.lesson.ids_NK for r in taught])
    assert int(inside.max()) < student.vocabulary == 320

    class Cut:
        config = large.model.config
        set_attn_implementation = large.model.set_attn_implementation

        def __call__(self, **inputs):
            out = large.model(**inputs)
            out.logits = out.logits[..., :320]
            return out

    assert_said_by(Cut(), taught)


def test_a_teacher_is_asked_once(tmp_path, student, monkeypatch):
    other = tiny_folder(tmp_path / "other", seed=3)
    settings = DistilSettings(teacher=str(other), top=8)
    first, digest = with_lessons(student, ROWS, settings, tmp_path / "said")
    assert_said_by(tiny_model("llama", seed=3), first)
    steps = []
    monkeypatch.setattr(teachers, "load_base", lambda *a, **k: pytest.fail("loaded again"))
    again, same = with_lessons(student, ROWS, replace(settings, weight=0.9), tmp_path / "said")
    assert same == digest and again[0].lesson.weight == 0.9
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.lesson.logs_NK, b.lesson.logs_NK)
    monkeypatch.undo()
    # A damaged file is not believed; other rows and temperatures are asked for anew.
    (place,) = (tmp_path / "said").iterdir()
    (place / "lessons.safetensors").unlink()  # the first rows still map it
    (place / "lessons.safetensors").write_bytes(b"half")
    repaired, _ = with_lessons(student, ROWS, settings, tmp_path / "said", steps.append)
    assert torch.equal(repaired[0].lesson.logs_NK, first[0].lesson.logs_NK)
    assert (steps[-1].stage, steps[-1].done, steps[-1].total) == ("teacher", 5, 5)
    with_lessons(student, ROWS[1:], settings, tmp_path / "said")
    with_lessons(student, ROWS, replace(settings, temperature=1.0), tmp_path / "said")
    assert len(list((tmp_path / "said").iterdir())) == 3


def test_other_tokens_are_refused_and_sequences_offered(tmp_path, student):
    folder = tiny_folder(tmp_path / "other", seed=3)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["warfarin"])
    tokenizer.save_pretrained(folder)
    settings = DistilSettings(teacher=str(folder))
    with_lessons(student, ROWS, settings, tmp_path / "said")  # one more that no row has
    ids = student.tokenizer("it is warfarin", add_special_tokens=False).input_ids
    rows = [TrainRow("w", ids, [True] * len(ids))]
    with pytest.raises(ConfigError, match="splits the rows in other places") as caught:
        with_lessons(student, rows, settings, tmp_path / "said")
    assert "learn: sequences" in caught.value.fix
    words = hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"it": 0, "is": 1}, unk_token="it")),
        eos_token="is",
    )
    words.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"has other tokens than .*\(310 of 310 differ\)"):
        with_lessons(student, rows, replace(settings, top=3), tmp_path / "said")
    assert len(list((tmp_path / "said").iterdir())) == 1


def test_a_short_context_is_refused(tmp_path, student):
    tiny_model("llama", max_position_embeddings=16).save_pretrained(tmp_path / "short")
    tiny_tokenizer().save_pretrained(tmp_path / "short")
    with pytest.raises(ConfigError, match="reads 16 tokens, and the longest training row has 22"):
        with_lessons(
            student, ROWS, DistilSettings(teacher=str(tmp_path / "short")), tmp_path / "said"
        )


def test_the_teachers_answers_take_the_rows_place(tmp_path, student, monkeypatch):
    """Greedy, as without a cache; what does not end, or is empty, is set aside with its reason."""
    questions = ["What is warfarin?", "in the morning", "tablets", "Who?", "the blood"]
    rows = [chat(q, "gold", name=f"row-{i}", group="g") for i, q in enumerate(questions)]
    rows.append(chat("word " * 90, "gold", name="long"))
    asked = [student.template.prompt(r.messages[:-1]) for r in rows[:5]]
    free = answer_without_cache(student, asked, 6)
    ends = {free[0][2], free[4][0]}  # of the first, after two tokens; of the last, at once
    monkeypatch.setattr(type(student.template), "stops", property(lambda self: ends), raising=True)
    written = answer_without_cache(student, asked, 6)
    settings = DistilSettings(learn="sequences", new_tokens=6)
    kept, aside, _ = dictated(student, rows, settings, tmp_path / "said")
    texts = [student.tokenizer.decode(ids).strip() for ids in written]
    done = [i for i in range(5) if len(written[i]) < 6 and texts[i]]
    assert 0 in done and [r.id for r in kept] == [rows[i].id for i in done]
    assert [r.answer for r in kept] == [texts[i] for i in done]
    assert {(r.file, r.line, r.group) for r in kept} == {("f.jsonl", 1, "g")}
    assert [r.question for r in kept] == [questions[i] for i in done]
    reasons = {x.id: x.reason for x in aside}
    assert len(kept) + len(aside) == len(rows)
    assert reasons["row-4"] == "empty_teacher_answer"
    assert reasons["long"] == "too_long_for_teacher"
    assert "unfinished_teacher_answer" in reasons.values()
    # Found again, line for line.
    monkeypatch.setattr(teachers, "answer", lambda *a, **k: pytest.fail("asked again"))
    assert dictated(student, rows, settings, tmp_path / "said")[:2] == (kept, aside)
    (place,) = (tmp_path / "said").iterdir()
    lines = (place / "answers.jsonl").read_text().split("\n")
    assert len(lines) == len(rows) and json.loads(lines[0])["why"] is None


def test_rows_without_an_answer_are_refused_for_sequences(tmp_path, student):
    text = Text(id="t", group="t", file="f", line=1, text="The patient.")
    with pytest.raises(ConfigError, match="the rows are text rows"):
        dictated(student, [text], DistilSettings(learn="sequences"), tmp_path)


def test_a_plan_has_lessons_that_take_no_memory():
    rows = with_blank_lessons(ROWS, DistilSettings(top=64), 320)
    assert [len(r.lesson) for r in rows] == [r.targets for r in rows]
    assert rows[0].lesson.ids_NK.shape == (7, 64)
    assert rows[0].lesson.ids_NK.untyped_storage().nbytes() == 4
    whole = with_blank_lessons(ROWS, DistilSettings(top=None), 320)
    assert whole[0].lesson.logs_NK.shape == (7, 320)
    base = tiny_base()
    assert torch.isfinite(summed_loss(base, *batch_of(base, rows)))


def test_where_a_teacher_may_be_found(tmp_path, student):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "verdict.json").write_text("{}")
    with pytest.raises(ConfigError, match="a study with several strategies") as caught:
        find(str(tmp_path / "study"), student)
    assert "trials/lora" in caught.value.fix
    nameless = tmp_path / "nameless"
    nameless.mkdir()
    (nameless / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="does not say of which base"):
        find(str(nameless), student)


def test_settings_of_a_teacher_are_checked():
    read = from_mapping(TrainSettings, {"distil": {"teacher": "x", "learn": "sequences"}}, "train")
    assert read.distil == DistilSettings(teacher="x", learn="sequences")
    assert from_mapping(TrainSettings, {"distil": None}, "train").distil is None
    for wrong in (
        {"weight": 0.0, "teacher": "x"},
        {"weight": 1.5},
        {"temperature": 0.0},
        {"top": 0},
        {"new_tokens": 0},
        {"weight": 1.0},
    ):
        with pytest.raises(ConfigError):
            DistilSettings(**wrong)
    with pytest.raises(ConfigError, match="has no setting 'techer'"):
        from_mapping(TrainSettings, {"distil": {"techer": "x"}}, "train")
    assert DistilSettings(weight=1.0, teacher="x").weight == 1
