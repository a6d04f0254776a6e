"""The strict reader of settings: nothing misspelt, mistyped or missing passes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from domainwright.core.config import as_mapping, from_mapping
from domainwright.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rank: int = 4
    rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str
    steps: int = 3
    rate: float = 0.5
    on: bool = False
    kind: Literal["linear", "cosine"] = "linear"
    targets: tuple[str, ...] = ("q",)
    sizes: list[int] = field(default_factory=list)
    parts: tuple[Inner, ...] = ()
    inner: Inner = field(default_factory=Inner)
    either: str | list[str] = "auto"
    extra: dict[str, Any] = field(default_factory=dict)
    table: Mapping[str, Any] = field(default_factory=dict)


def read(**data):
    return from_mapping(Outer, {"name": "n", **data}, "study.yaml")


def test_values_arrive_with_their_types():
    got = read(
        steps=7,
        rate=2,
        on=True,
        kind="cosine",
        targets=["q", "v"],
        sizes=[1, 2],
        inner={"rank": 8, "rate": 0.1},
        parts=[{"rank": 1}, {}],
        either=["a", "b"],
        extra={"anything": [1]},
        table={"a": 1},
    )
    assert got == Outer(
        name="n",
        steps=7,
        rate=2.0,
        on=True,
        kind="cosine",
        targets=("q", "v"),
        sizes=[1, 2],
        inner=Inner(rank=8, rate=0.1),
        parts=(Inner(rank=1), Inner()),
        either=["a", "b"],
        extra={"anything": [1]},
        table={"a": 1},
    )
    assert isinstance(got.rate, float)


def test_one_value_stands_for_a_list_of_one():
    assert read(targets="v").targets == ("v",)


def test_none_is_a_value_where_the_type_allows_it():
    assert read(inner={"rate": None}).inner.rate is None
    with pytest.raises(ConfigError, match="steps is None"):
        read(steps=None)


def test_every_default_is_written_out():
    mapping = as_mapping(Outer(name="n"))
    assert mapping["inner"] == {"rank": 4, "rate": None}
    assert mapping["targets"] == ("q",) and mapping["steps"] == 3
    assert from_mapping(Outer, mapping, "again") == Outer(name="n")


@pytest.mark.parametrize(
    ("data", "cause", "fix"),
    [
        ({"stepz": 3}, r"study.yaml has no setting 'stepz'", "write 'steps'"),
        ({"zzzzzz": 3}, r"no setting 'zzzzzz'", "known settings: name, steps"),
        ({7: 3}, r"no setting 7", "known settings"),
        ({"inner": {"ranc": 3}}, r"study.yaml inner has no setting 'ranc'", "write 'rank'"),
        ({"steps": 3.0}, r"steps is 3\.0", "give a whole number"),
        ({"steps": True}, r"steps is True", "give a whole number"),
        ({"steps": "3"}, r"steps is '3'", "give a whole number"),
        ({"rate": "1e-3"}, r"rate is '1e-3'", r"write 1\.0e-3, YAML reads 1e-3 as text"),
        ({"inner": {"rate": "1e-3"}}, r"inner rate is '1e-3'", r"write 1\.0e-3"),
        ({"rate": False}, r"rate is False", "give a number"),
        ({"on": 1}, r"on is 1", "give true or false"),
        ({"on": "yes"}, r"on is 'yes'", "give true or false"),
        ({"kind": "linaer"}, r"kind is 'linaer'", "use one of: linear, cosine"),
        ({"targets": [1]}, r"targets is 1", "give a text"),
        ({"sizes": [1, "2"]}, r"sizes is '2'", "give a whole number"),
        ({"inner": 3}, r"study.yaml inner is 3, not a set of settings", "name: value"),
        ({"parts": [{"rank": "x"}]}, r"parts rank is 'x'", "give a whole number"),
        ({"either": 3}, r"either is 3", "give a text"),
        ({"extra": [1]}, r"extra is \[1\]", "give settings"),
    ],
)
def test_wrong_settings_are_refused_with_a_fix(data, cause, fix):
    with pytest.raises(ConfigError, match=cause) as caught:
        from_mapping(Outer, {"name": "n", **data}, "study.yaml")
    assert caught.match(fix)


def test_a_missing_setting_is_named():
    with pytest.raises(ConfigError, match="lacks the setting 'name'"):
        from_mapping(Outer, {}, "study.yaml")


@pytest.mark.parametrize("data", [None, [1], "text", 3])
def test_something_else_than_settings_is_refused(data):
    with pytest.raises(ConfigError, match="not a set of settings"):
        from_mapping(Outer, data, "study.yaml")


def test_records_in_a_mapping_are_records():
    @dataclass
    class Several:
        named: dict[str, Inner]

    found = from_mapping(Several, {"named": {"a": {"rate": 1}}}, "f")
    assert found == Several({"a": Inner(rate=1.0)})
    with pytest.raises(ConfigError, match="f named a rank is 'x'"):
        from_mapping(Several, {"named": {"a": {"rank": "x"}}}, "f")
