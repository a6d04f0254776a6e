"""`dw curate`: what a person sees and types."""

import json
import stat

from typer.testing import CliRunner

from domainwright.cli.main import app
from tests.curate.test_pipeline import rows, write


def dw(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def files(tmp_path):
    mail = {"id": "mail", "question": "Who is it?", "answer": "Write to ann.lee@example.com today."}
    return write(tmp_path / "rows.jsonl", [*rows(30), rows(30)[2] | {"id": "copy"}, mail])


def test_the_screen_fits_and_shows_no_secret(tmp_path):
    done = dw("curate", files(tmp_path), "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "31 rows kept of 32 records" in done.stdout
    assert "dropped exact_duplicate" in done.stdout and "changed pii" in done.stdout
    assert "ann.lee" not in done.stdout
    shown = [line for line in done.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, shown)) <= 80


def test_json_is_one_object(tmp_path):
    done = dw("curate", files(tmp_path), "-o", tmp_path / "out", "--json")
    told = json.loads(done.stdout)
    assert told["records"] == told["kept"] + told["dropped"] == 32
    assert told["reasons"] == {"copies": {"exact_duplicate": 1}}
    assert "secrets" not in told


def test_explain_in_both_spellings(tmp_path):
    dw("curate", files(tmp_path), "-o", tmp_path / "out")
    first = dw("curate", "--explain", "copy", "-o", tmp_path / "out")
    assert "dropped by copies as exact_duplicate" in first.stdout and "'r2'" in first.stdout
    assert dw("curate", tmp_path / "out", "--explain", "copy").stdout == first.stdout
    told = json.loads(dw("curate", tmp_path / "out", "--explain", "mail", "--json").stdout)
    assert [step["was"] for step in told["story"]] == ["changed", "kept"]


def test_secrets_go_to_a_file_of_their_own(tmp_path):
    inside = dw("curate", files(tmp_path), "-o", tmp_path / "out", "--secrets", tmp_path / "out/s")
    assert inside.exit_code != 0 and not (tmp_path / "out").exists()
    secrets = tmp_path / "secrets.jsonl"
    dw("curate", files(tmp_path), "-o", tmp_path / "out", "--secrets", secrets)
    assert json.loads(secrets.read_text()) == {
        "id": "mail",
        "placeholders": {"[EMAIL_1]": "ann.lee@example.com"},
    }
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600


def test_what_is_missing_is_said(tmp_path):
    for arguments, told in (
        (("curate", files(tmp_path)), "add -o DATASET"),
        (("curate", "--explain", "x"), "--explain ID -o DATASET"),
        (("curate", "-o", tmp_path / "out"), "dw curate FILE"),
    ):
        done = dw(*arguments)
        assert done.exit_code == 2 and told in done.stderr


def test_some_rows_are_selected_and_the_others_accounted_for(tmp_path):
    selected = ("--select", "k_center", "--rows", 5)
    done = dw("curate", files(tmp_path), "-o", tmp_path / "out", *selected, "--json")
    told = json.loads(done.stdout)
    assert (told["records"], told["kept"], told["dropped"]) == (32, 5, 27)
    assert told["reasons"] == {"copies": {"exact_duplicate": 1}, "select": {"not_selected": 26}}
    dropped = (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()
    assert len(dropped) == 27
    assert "k_center chose 5 other rows" in dropped[0]


def test_a_wrong_selection_is_said(tmp_path):
    for given, told in (
        (("--select", "k_center"), "--select k_center --rows 200"),
        (("--rows", 5), "give both"),
        (("--select", "k_centre", "--rows", 5), "'k_center'"),
        (("--select", "difficulty", "--rows", 5), "select in a study"),
        (("--select", "perplexity", "--rows", 5), "select in a study"),
        (("--select", "influence", "--rows", 5), "select in a study"),
        (("--select", "random", "--rows", 99), "31 rows are there"),
    ):
        done = dw("curate", files(tmp_path), "-o", tmp_path / "out", *given)
        assert done.exit_code == 2 and told in done.stderr, done.stderr
        assert not (tmp_path / "out").exists()
