"""Artifact folders survive a kill at every system call, and notice every altered byte."""

import json
import os
import stat
import subprocess

import pytest

from domainwright.core import artifacts
from domainwright.core.artifacts import (
    MANIFEST,
    read_manifest,
    sha256_file,
    sha256_json,
    sweep,
    write_atomic,
    write_folder,
    write_json,
)
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.lock import lock


def fill_with(text):
    def fill(folder):
        (folder / "sub").mkdir()
        (folder / "a.txt").write_text(text)
        (folder / "sub" / "b.txt").write_text(text * 2)

    return fill


def content(folder):
    return (folder / "a.txt").read_text(), (folder / "sub" / "b.txt").read_text()


def in_child(work):
    """Run `work` in a forked child that dies without clean-up; return its process id."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    return child


def killed_at(number):
    """Patch every system call of the writer: the one with this number ends the process."""
    seen = 0

    def patch(module, name):
        original = getattr(module, name)

        def counted(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == number:
                os._exit(9)
            return original(*args, **kwargs)

        setattr(module, name, counted)

    for name in ("replace", "fsync"):
        patch(os, name)
    patch(artifacts.shutil, "rmtree")


def test_a_folder_is_written_with_its_manifest(tmp_path):
    folder = tmp_path / "new" / "data"
    manifest = write_folder(
        folder, "dataset", fill_with("x"), parents={"source": "abc"}, facts={"rows": 3}
    )
    assert read_manifest(folder, "dataset") == manifest
    assert manifest["files"] == {
        "a.txt": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        "sub/b.txt": sha256_file(folder / "sub" / "b.txt"),
    }
    assert manifest["parents"] == {"source": "abc"} and manifest["facts"] == {"rows": 3}
    assert sorted(p.name for p in folder.parent.iterdir()) == ["data"]


def test_the_hash_covers_files_kind_parents_and_facts(tmp_path):
    def made(name, text="x", kind="dataset", **more):
        return write_folder(tmp_path / name, kind, fill_with(text), **more)["hash"]

    first = made("1")
    assert made("2") == first
    others = [
        made("3", "y"),
        made("4", kind="adapter"),
        made("5", parents={"a": "b"}),
        made("6", facts={"a": 1}),
    ]
    assert len({first, *others}) == 5


def test_files_can_be_read_by_other_users(tmp_path):
    def fill(folder):
        (folder / "w.safetensors").write_bytes(b"1")
        (folder / "w.safetensors").chmod(0o600)

    write_folder(tmp_path / "a", "adapter", fill)
    assert stat.S_IMODE((tmp_path / "a" / "w.safetensors").stat().st_mode) == 0o644


def test_a_failed_fill_leaves_the_old_folder_and_no_litter(tmp_path):
    write_folder(tmp_path / "a", "dataset", fill_with("old"))

    def broken(folder):
        (folder / "a.txt").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_folder(tmp_path / "a", "dataset", broken)
    assert content(tmp_path / "a") == ("old", "oldold")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("number", range(1, 14))
def test_a_kill_at_any_call_leaves_the_old_folder_or_the_new_one(tmp_path, number):
    folder = tmp_path / "a"
    write_folder(folder, "dataset", fill_with("old"))

    def work():
        killed_at(number)
        write_folder(folder, "dataset", fill_with("new"))
        os._exit(0)

    in_child(work)
    sweep(tmp_path)
    read_manifest(folder, "dataset")
    assert content(folder) in {("old", "oldold"), ("new", "newnew")}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    write_folder(folder, "dataset", fill_with("later"))
    assert content(folder) == ("later", "laterlater")


def test_the_kills_reach_every_call_of_the_writer(tmp_path, monkeypatch):
    """Guards the range above: 13 calls when an old folder is replaced."""
    write_folder(tmp_path / "a", "dataset", fill_with("old"))
    calls = []
    for module, name in ((os, "replace"), (os, "fsync"), (artifacts.shutil, "rmtree")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, o=original, n=name, **k: (calls.append(n), o(*a, **k))[1]
        )
    write_folder(tmp_path / "a", "dataset", fill_with("new"))
    assert len(calls) <= 13 and {"replace", "fsync", "rmtree"} == set(calls)


def test_leftovers_of_an_earlier_life_under_the_same_process_id_do_not_block(tmp_path):
    """In a container every start has the same process id, so its own number proves nothing."""
    me = os.getpid()
    for name in (f".tmp-{me}.0badcafe-a", f".tmp-{me}-b", f".del-{me}.0badcafe-c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("left by a kill")
    mine = artifacts.aside(tmp_path / "d", "tmp")
    mine.mkdir()
    write_folder(tmp_path / "a", "dataset", fill_with("one"))
    write_folder(tmp_path / "a", "dataset", fill_with("two"))
    assert content(tmp_path / "a") == ("two", "twotwo")
    # "c" lost its name to the kill and has it again; what this process is writing stays.
    assert {p.name for p in tmp_path.iterdir()} == {"a", "c", mine.name}


def test_the_sweep_spares_living_processes_and_other_names(tmp_path):
    dead = in_child(lambda: None)
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / f".tmp-{dead}-a").mkdir()
        (tmp_path / f".tmp-{dead}-file").write_text("x")
        (tmp_path / f".del-{dead}-b").mkdir()
        (tmp_path / f".tmp-{other.pid}-a").mkdir()
        (tmp_path / f".del-{other.pid}-c").mkdir()
        (tmp_path / ".tmp-word-a").mkdir()
        (tmp_path / "b").mkdir()
        sweep(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {
            f".tmp-{other.pid}-a",
            f".del-{other.pid}-c",
            ".tmp-word-a",
            "b",
        }
        other.kill()


def flip(path, position=-1):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_an_altered_or_missing_file_is_noticed(tmp_path):
    folder = tmp_path / "a"
    write_folder(folder, "dataset", fill_with("x"))
    flip(folder / "sub" / "b.txt")
    with pytest.raises(DataError, match=r"b\.txt was altered"):
        read_manifest(folder)
    read_manifest(folder, verify=False)
    (folder / "sub" / "b.txt").unlink()
    with pytest.raises(DataError, match=r"lacks its file 'sub/b\.txt'"):
        read_manifest(folder)


def test_every_flipped_bit_of_a_manifest_is_noticed(tmp_path):
    folder = tmp_path / "a"
    write_folder(folder, "dataset", fill_with("x"), parents={"run": "abc"}, facts={"n": 1})
    whole = (folder / MANIFEST).read_bytes()
    before = read_manifest(folder, "dataset")
    for position in range(len(whole)):
        (folder / MANIFEST).write_bytes(whole)
        flip(folder / MANIFEST, position)
        try:
            got = read_manifest(folder, "dataset")
        except DataError:
            continue
        # What passes may differ in white space or in the note of when it was written.
        for key in ("kind", "files", "parents", "facts", "hash"):
            assert got[key] == before[key]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_manifest_is_refused(tmp_path, share):
    folder = tmp_path / "a"
    write_folder(folder, "dataset", fill_with("x"))
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: int(share * len(text))])
    with pytest.raises(DataError, match="not valid JSON"):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["{}", "[]", '"text"', '{"files": 3}', '{"kind": "dataset"}'])
def test_json_that_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DataError):
        read_manifest(tmp_path)


def test_no_manifest_and_another_kind_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no manifest"):
        read_manifest(tmp_path)
    write_folder(tmp_path / "a", "dataset", fill_with("x"))
    with pytest.raises(DataError, match="is a 'dataset' artifact, not a 'adapter'"):
        read_manifest(tmp_path / "a", "adapter")


def test_text_is_replaced_all_at_once(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"ü": [1]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": [1]}
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomic(path, "new")
    assert path.read_bytes() == before


def test_equal_data_has_an_equal_hash():
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json([1, 2]) != sha256_json([2, 1])
    # echo -n '{"a":1}' | sha256sum
    assert sha256_json({"a": 1}).startswith("015abd7f5cc57a2dd94b7590f04ad808")


def test_a_folder_is_held_by_one_process(tmp_path):
    with lock(tmp_path / "run"):
        with pytest.raises(ConfigError, match="Another process"), lock(tmp_path / "run"):
            pass
        ready, tell = os.pipe()

        def other():
            try:
                with lock(tmp_path / "run"):
                    os.write(tell, b"held twice")
            except ConfigError:
                os.write(tell, b"refused")

        in_child(other)
        assert os.read(ready, 100) == b"refused"
    with lock(tmp_path / "run"):
        pass


def test_the_lock_dies_with_its_process(tmp_path):
    in_child(lambda: lock(tmp_path / "run").__enter__())
    with lock(tmp_path / "run"):
        pass
