"""Training rows as the tuned model is asked: the same instruction, passages in their share."""

import pytest

from domainwright.core.errors import ConfigError
from domainwright.core.records import Chat, Choice
from domainwright.models import embedded
from domainwright.models.base import load_base
from domainwright.models.forms import choice_prompt
from domainwright.prompting._sources import PromptSettings
from domainwright.studies._asked import as_asked, prompters_of
from domainwright.studies.data import prepare
from domainwright.studies.study import read_study
from tests.studies import world

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        embedded.package_folder(embedded.ENCODER_PACKAGE) is None
        or embedded.package_folder(embedded.GGUF_PACKAGE) is None,
        reason="the packages of the embedded models are not installed (`make setup`)",
    ),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base(str(world.save_base(tmp_path_factory.mktemp("base"))), dtype="float32")


def lessons(tmp_path, base, names, rows=None, max_tokens=1024, **prompting):
    world.write_lines(tmp_path / "documents.jsonl", world.documents())
    study = world.study_file(
        tmp_path,
        str(base.source.folder),
        *([rows] if rows else []),
        data={"documents": "documents.jsonl"},
        prompting=prompting,
        train={"max_tokens": max_tokens},
    )
    settings = read_study(study)
    data = prepare(settings, tmp_path / "run")
    prompters = prompters_of(settings, base, data, tmp_path / "run")
    return settings, data, as_asked(settings, data, base, prompters, names).lessons, prompters


def question(row):
    return choice_prompt(row) if isinstance(row, Choice) else row.messages[-2].content


@pytest.mark.parametrize("kind", [None, "choices"])
@pytest.mark.parametrize("share", [0.0, None, 1.0])
def test_the_share_of_rows_with_passages(tmp_path, base, kind, share):
    rows = world.choices() if kind else None
    _, data, found, _ = lessons(tmp_path, base, ["lora", "lora+rag"], rows, train_share=share)
    for before, after in ((data.split.train, found.train), (data.split.dev, found.dev)):
        assert [r.id for r in after] == [r.id for r in before]
        assert [r.group for r in after] == [r.group for r in before]
    quoted = [r for r in found.train if "[1] " in question(r)]
    assert len(quoted) / len(found.train) == pytest.approx({None: 0.5}.get(share, share), abs=0.2)
    assert found.test == data.split.test


@pytest.mark.parametrize("kind", [None, "choices"])
def test_rows_read_as_the_tuned_model_is_asked(tmp_path, base, kind):
    rows = world.choices() if kind else None
    _, data, found, prompters = lessons(
        tmp_path, base, ["lora+rag"], rows, train_share=1.0, instruction="Be brief."
    )
    rag = prompters.get("rag")
    for before, after in zip(data.split.train, found.train, strict=True):
        prompt = rag.prompt(before)
        if isinstance(after, Chat):
            assert after.messages == (*prompt.messages, before.messages[-1])
            assert after.messages[0].content == "Be brief."
        else:
            assert choice_prompt(after) == prompt.text and prompt.text.startswith("Be brief.\n[1]")


@pytest.mark.parametrize("names", [["zero_shot", "rag", "lora"], ["rag", "few_shot+lora"]])
def test_bare_without_tuning_for_retrieval(tmp_path, base, names):
    _, data, found, _ = lessons(tmp_path, base, names)
    assert found.train == data.split.train


def test_what_passages_make_too_long_stays_bare(tmp_path, base):
    _, data, found, _ = lessons(tmp_path, base, ["lora+rag"], max_tokens=30, train_share=1.0)
    assert found.train == data.split.train


def test_a_share_is_a_share():
    with pytest.raises(ConfigError, match="train_share is 1"):
        PromptSettings(train_share=1.5)
