"""Registries, the error tree and counter-based randomness."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from domainwright.core import errors, records, seeds
from domainwright.core.registry import Folder


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    package = tmp_path / "zoo_of_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_helper.py").write_text("")
    (package / "lion.py").write_text(
        "import sys\nimport zoo_registry\n"
        "@zoo_registry.ZOO.register\nclass Big:\n    sound = 'roar'\n"
    )
    (package / "broken.py").write_text("import there_is_no_such_module\n")
    (tmp_path / "zoo_registry.py").write_text(
        "from domainwright.core.registry import Folder\nZOO = Folder('zoo_of_tests', 'animal')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import zoo_registry

    yield zoo_registry.ZOO
    for name in [m for m in sys.modules if m.startswith("zoo_")]:
        del sys.modules[name]


def test_the_file_name_is_the_name(zoo):
    assert zoo.names() == ["broken", "lion"]
    assert zoo.get("lion").sound == "roar"


def test_listing_names_imports_nothing(zoo):
    zoo.names()
    assert "zoo_of_tests.lion" not in sys.modules


def test_an_unknown_name_says_what_is_near(zoo):
    with pytest.raises(errors.UnknownName, match="no animal called 'lyon'") as caught:
        zoo.get("lyon")
    assert "use 'lion'" in str(caught.value)
    with pytest.raises(errors.UnknownName, match="choose one of: broken, lion"):
        zoo.get("xxxxxxxx")
    with pytest.raises(errors.UnknownName):
        zoo.get("_helper")


def test_a_family_knows_names_that_are_no_files(zoo, tmp_path):
    helper = tmp_path / "zoo_of_tests" / "_helper.py"
    helper.write_text("def member(name):\n    return 'a ' + name\n")
    family = Folder("zoo_of_tests", "animal", {"cat": "_helper"})
    assert family.get("cat:tiger") == "a tiger" and family.names() == ["broken", "lion"]
    assert "cat:tiger" in family and "lion" in family
    assert "dog:wolf" not in family and "tiger" not in family and "cat:tiger" not in zoo
    with pytest.raises(errors.UnknownName, match="'dog:wolf'"):
        family.get("dog:wolf")


def test_a_file_that_does_not_import_says_so_itself(zoo):
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        zoo.get("broken")


@pytest.mark.parametrize("package", ["methods", "prompting", "evaluate.tasks"])
def test_every_file_of_the_house_registers_one_class(package):
    nouns = {"methods": "METHODS", "prompting": "PROMPTINGS", "evaluate.tasks": "TASKS"}
    module = __import__(f"domainwright.{package}", fromlist=["x"])
    registry = getattr(module, nouns[package])
    assert isinstance(registry, Folder) and registry.names()
    for name in registry.names():
        assert registry.get(name).__module__ == f"domainwright.{package}.{name}"


@pytest.mark.parametrize(
    ("kind", "code", "also"),
    [
        (errors.ConfigError, 2, ValueError),
        (errors.DataError, 3, ValueError),
        (errors.UnknownName, 2, LookupError),
        (errors.CapabilityError, 4, RuntimeError),
        (errors.RunFailed, 5, RuntimeError),
    ],
)
def test_errors_carry_cause_fix_and_exit_code_through_pickle(kind, code, also):
    error = pickle.loads(pickle.dumps(kind("It broke.", "mend it.")))
    assert isinstance(error, (errors.DomainwrightError, also)) and isinstance(error, also)
    assert (error.cause, error.fix, error.exit_code) == ("It broke.", "mend it.", code)
    assert str(error) == "It broke.\n  fix: mend it."


def test_seeds_depend_on_every_argument_and_on_nothing_else():
    drawn = [
        seeds.derive(0, "order", 1),
        seeds.derive(1, "order", 1),
        seeds.derive(0, "order", 2),
        seeds.derive(0, "step", 1),
        seeds.derive(0, "order", 1, 1),
        seeds.derive(0, "order1", ""),
    ]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= x < 2**63 for x in drawn)
    code = "from domainwright.core.seeds import derive; print(derive(0, 'order', 1))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert int(other.stdout) == drawn[0]


def test_generators_of_two_purposes_do_not_share_a_stream():
    a = seeds.generator(0, "a").permutation(50)
    np.testing.assert_array_equal(a, seeds.generator(0, "a").permutation(50))
    assert not np.array_equal(a, seeds.generator(0, "b").permutation(50))


def test_shares_are_even():
    shares = np.array([seeds.share(3, f"key-{n}") for n in range(4000)])
    assert shares.min() >= 0 and shares.max() < 1
    # 3.5 standard deviations of a tenth of 4,000.
    assert np.abs(np.histogram(shares, 10, (0, 1))[0] - 400).max() < 3.5 * (4000 * 0.09) ** 0.5


def test_a_chat_tells_its_question_and_answer():
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    row = records.Chat(
        id="1", group="1", file="f", line=1, messages=tuple(records.Message(*t) for t in turns)
    )
    assert (row.question, row.answer) == ("c", "d")
