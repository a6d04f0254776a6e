"""The published schema is that of the records, and real verdicts obey it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from domainwright.core.schema import json_schema
from domainwright.studies.records import Verdict
from tests.studies import verdicts

PUBLISHED = Path(__file__).parents[2] / "docs/verdict.schema.json"


def test_the_published_schema_is_that_of_the_records():
    """`python -m domainwright.studies.records > docs/verdict.schema.json` writes it."""
    assert json.loads(PUBLISHED.read_text()) == json_schema(Verdict, "Verdict of a study")


def check(value, schema, definitions, where="verdict"):
    """A validator of the few words our schemas use; the jsonschema package is no dependency."""
    if "$ref" in schema:
        return check(value, definitions[schema["$ref"].rpartition("/")[2]], definitions, where)
    if "anyOf" in schema:
        errors = [check(value, s, definitions, where) for s in schema["anyOf"]]
        return None if None in errors else errors[0]
    if "enum" in schema:
        return None if value in schema["enum"] else f"{where}: {value!r}"
    kinds = {
        "object": dict, "array": list, "string": str, "integer": int,
        "number": (int, float), "boolean": bool, "null": type(None),
    }  # fmt: skip
    wanted = schema.get("type")
    if wanted:
        allowed = [wanted] if isinstance(wanted, str) else wanted
        if not any(isinstance(value, kinds[k]) for k in allowed):
            return f"{where}: {value!r} is no {wanted}"
    found = []
    if isinstance(value, dict):
        properties = schema.get("properties")
        if properties is not None:
            if set(value) != set(properties):
                return f"{where}: {set(value) ^ set(properties)}"
            found = [check(v, properties[k], definitions, f"{where}.{k}") for k, v in value.items()]
        elif "additionalProperties" in schema:
            more = schema["additionalProperties"]
            found = [check(v, more, definitions, f"{where}.{k}") for k, v in value.items()]
    if isinstance(value, list) and "items" in schema:
        found = [check(v, schema["items"], definitions, f"{where}[]") for v in value]
    return next((x for x in found if x), None)


def test_a_verdict_obeys_the_schema():
    schema = json.loads(PUBLISHED.read_text())
    plain = json.loads(json.dumps(verdicts.verdict().as_json()))
    assert check(plain, schema, schema["$defs"]) is None
    plain["strategies"][0]["status"] = "won"
    assert "won" in check(plain, schema, schema["$defs"])


def test_what_json_does_not_know_is_refused():
    @dataclass
    class Odd:
        value: set

    with pytest.raises(TypeError, match="no JSON schema"):
        json_schema(Odd, "odd")
