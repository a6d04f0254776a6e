"""Rows written by another base or by a server over a real socket; replies are kept."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.core.progress import quiet
from domainwright.curate.augment import AugmentSettings
from domainwright.curate.dataset import read_dataset
from domainwright.curate.writer_settings import WriterSettings
from domainwright.studies import _writer
from domainwright.studies._writer import writer_of
from domainwright.studies.data import prepare
from domainwright.studies.study import read_study
from tests.studies import world


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(_writer, "_WAIT_SECONDS", 0.0)


@contextmanager
def server(answer):
    """A server whose `answer(body, headers)` gives (status, text of the reply or raw bytes)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body, dict(self.headers)))
            status, said = answer(body, len(asked))
            if isinstance(said, str):
                said = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args):
            pass

    asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}/v1", asked
        finally:
            running.shutdown()
            thread.join()


def writer(url, folder, **settings):
    own = WriterSettings(url=url, model="big", **settings)
    return writer_of(own, None, "tiny", folder, quiet)


def echo(body, count):
    return 200, f"<think>Let me see.\n</think>\n\nSaid: {body['messages'][0]['content']}"


def test_each_prompt_is_sent_once_and_its_reply_kept(tmp_path):
    prompts = [f"prompt {n}" for n in range(40)] + ["prompt 3"]
    with server(echo) as (url, asked):
        mine = writer(url + "/", tmp_path, new_tokens=33)
        said = mine.write(prompts)
    assert said == [f"Said: {prompt}" for prompt in prompts]
    assert len(asked) == 40 and mine.name.startswith("big at 127.0.0.1:")
    path, body, headers = asked[0]
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("big", 33, 0)
    # The server is gone, and nothing is asked of it.
    assert writer(url + "/", tmp_path, new_tokens=33).write(prompts) == said
    with pytest.raises(CapabilityError, match="does not answer"):
        writer(url, tmp_path, new_tokens=34).write(["prompt 1"])


def test_a_busy_server_is_asked_again_and_a_lost_one_loses_nothing(tmp_path):
    def busy(body, count):
        return (503, b"busy") if count <= 2 else echo(body, count)

    with server(busy) as (url, asked):
        assert writer(url, tmp_path, at_once=1).write(["one"]) == ["Said: one"]
        assert len(asked) == 3

    def ends(body, count):
        return echo(body, count) if count <= 8 else (500, b"out of memory")

    prompts = [f"p{n}" for n in range(20)]
    with server(ends) as (url, _), pytest.raises(CapabilityError, match="out of memory"):
        writer(url, tmp_path / "b", at_once=1).write(prompts)
    (file,) = (tmp_path / "b").glob("written-*.json")
    assert list(json.loads(file.read_text())) == prompts[:8]


def test_the_key_comes_from_the_environment(tmp_path, monkeypatch):
    with server(echo) as (url, asked):
        with pytest.raises(CapabilityError, match="MY_KEY is empty"):
            writer(url, tmp_path, key="MY_KEY").write(["one"])
        monkeypatch.setenv("MY_KEY", "s3cret")
        writer(url, tmp_path, key="MY_KEY").write(["one"])
    assert asked[0][2]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in "".join(p.read_text() for p in tmp_path.glob("*"))


@pytest.mark.parametrize(
    ("status", "said", "wrong"),
    [
        (401, b"no key", "refuses .HTTP 401: no key"),
        (404, b"no such model", "HTTP 404: no such model"),
        (400, b"too long", "answers no prompt .HTTP 400: too long"),
        (200, b"<html>", "does not answer as OpenAI's"),
        (200, b'{"choices": []}', "does not answer as OpenAI's"),
    ],
)
def test_a_server_that_refuses(tmp_path, status, said, wrong):
    with (
        server(lambda body, count: (status, said)) as (url, _),
        pytest.raises(CapabilityError, match=wrong) as caught,
    ):
        writer(url, tmp_path).write(["one", "two"])
    assert caught.value.fix


def test_one_prompt_that_it_will_not_answer_is_no_reply(tmp_path):
    def picky(body, count):
        return (400, b"too long") if "long" in str(body["messages"]) else echo(body, count)

    with server(picky) as (url, _):
        assert writer(url, tmp_path).write(["long one", "two"]) == ["", "Said: two"]


def test_a_study_whose_rows_a_server_writes(tmp_path, base):
    def rewrite(body, count):
        question = body["messages"][0]["content"].strip().split("\n")[-1]
        return 200, question.replace("What", "Tell me: what")

    with server(rewrite) as (url, asked):
        way = {"method": "paraphrase", "writer": {"url": url, "model": "big"}}
        study = read_study(world.study_file(tmp_path, base, None, data={"augment": way}))
        data = prepare(study, tmp_path / "run")
    source = data.sources[-1]
    assert source.records == source.kept + sum(source.set_aside.values()) == len(asked)
    host = url.removeprefix("http://").removesuffix("/v1")
    assert f"Rows were written by big at {host}: training rows were sent there." in data.notes
    made = [r for r in read_dataset(tmp_path / "run/dataset").train if r.provenance]
    assert all(row.provenance.model == f"big at {host}" for row in made)


def test_another_base_writes(tmp_path, base):
    own = WriterSettings(base=str(base), new_tokens=4)
    said = writer_of(own, None, "tiny", tmp_path, quiet).write(["the leaf is"] * 2)
    assert len(said) == 2 and said[0] == said[1]
    assert json.loads(next(tmp_path.glob("written-*")).read_text()) == {"the leaf is": said[0]}


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({}, "no writer"),
        ({"base": "a", "url": "http://x/v1", "model": "m"}, "two writers"),
        ({"base": "a", "model": "m"}, "model or key of a server"),
        ({"url": "x/v1", "model": "m"}, "url is 'x/v1'"),
        ({"url": "http://a:b@x/v1", "model": "m"}, "holds a password"),
        ({"url": "http://x/v1"}, "model is missing"),
        ({"url": "http://x/v1", "model": "m", "key": "sk-12ab"}, "no name of an environment"),
        ({"base": "a", "new_tokens": 0}, "new_tokens is 0"),
        ({"url": "http://x/v1", "model": "m", "at_once": 0}, "at_once is 0"),
    ],
)
def test_settings_that_cannot_be(settings, wrong):
    with pytest.raises(ConfigError, match=wrong) as caught:
        WriterSettings(**settings)
    assert "sk-12ab" not in str(caught.value)


def test_a_writer_for_a_method_that_asks_none():
    with pytest.raises(ConfigError, match="eda asks no model"):
        AugmentSettings(method="eda", writer=WriterSettings(base="a"))
