"""Items written are items read, whatever a model replied; changed conditions read nothing."""

from domainwright.evaluate.records import Item, Mark
from domainwright.studies._scorecards import read_items, write_items

STRANGE = 'a\u2028b\u2029c\x85d\x1ce\x0bf\r\ng\ud7ffh \U0001f600 "q" \\n'


def test_items_survive_the_disk(tmp_path):
    items = [
        Item(
            id=f"{n}",
            group="g",
            question=STRANGE,
            reference=STRANGE,
            reply=reply,
            mark=Mark(0.1 + 0.2, n == 1),
            metrics={"rouge_l": 1 / 3},
            loss=1e-17 if n else None,
            loss_tokens=3,
            passages=(STRANGE, ""),
        )
        for n, reply in enumerate((STRANGE, "", "plain"))
    ]
    write_items(tmp_path / "card", "scorecard", {"items.jsonl": items}, {"base": "1"})
    assert read_items(tmp_path / "card", {"base": "1"}, "items.jsonl") == items
    assert read_items(tmp_path / "card", {"base": "2"}, "items.jsonl") is None
    assert read_items(tmp_path / "none", {"base": "1"}, "items.jsonl") is None
    (tmp_path / "card" / "items.jsonl").write_text("{}")
    assert read_items(tmp_path / "card", {"base": "1"}, "items.jsonl") is None
