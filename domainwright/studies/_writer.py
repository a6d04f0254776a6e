"""Who writes rows in a study: its own base, another one, or a server; replies are kept on the disk.

A study that is taken up again finds what was written, and writes the same rows.
"""

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from domainwright.core.artifacts import sha256_json, write_json
from domainwright.core.errors import CapabilityError
from domainwright.core.progress import Listener, Step
from domainwright.core.records import Message
from domainwright.curate.writer_settings import NEW_TOKENS, WriterSettings
from domainwright.infer.generate import answer
from domainwright.models.base import Base, load_base

STAGE = "write rows"
_TRIES, _WAIT_SECONDS, _TIMEOUT = 4, 1.0, 300.0
_THOUGHTS = re.compile(r"\s*<think>.*?</think>\s*", re.S)
_LONGEST_SAID = 200


class Source(Protocol):
    """A model that replies; the same to the same prompt."""

    def key(self) -> str:
        """What its replies depend on, as a hash."""

    def replies(self, prompts: Sequence[str], listen: Listener) -> Iterator[dict[str, str]]:
        """Prompt -> reply, some at a time; "" where there is none."""


class KeptWriter:
    """A writer whose replies are kept in `folder`.

    Args:
        name: for the rows' provenance.
    """

    def __init__(self, source: Source, name: str, folder: Path, listen: Listener) -> None:
        self.source, self.name, self.folder, self.listen = source, name, folder, listen

    def write(self, prompts: Sequence[str]) -> list[str]:
        """One reply per prompt; "" where the model has none, as for a prompt too long for it."""
        if not prompts:
            return []
        file = self.folder / f"written-{self.source.key()[:24]}.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        asked = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        if asked:
            self.folder.mkdir(parents=True, exist_ok=True)
            for some in self.source.replies(asked, self.listen):
                known |= some
                write_json(file, known)
        return [known[prompt] for prompt in prompts]


class BaseSource:
    """A base, which replies greedily.

    Args:
        base: loads it; called when something is to be written.
    """

    def __init__(self, base: Callable[[], Base], new_tokens: int = NEW_TOKENS) -> None:
        self._base, self._new_tokens = base, new_tokens

    def key(self) -> str:
        base = self._base()
        return sha256_json([base.sha256, str(base.dtype), self._new_tokens])

    def replies(self, prompts: Sequence[str], listen: Listener) -> Iterator[dict[str, str]]:
        base = self._base()
        asked = {p: base.template.prompt([Message("user", p)]) for p in prompts}
        fits = [p for p, ids in asked.items() if len(ids) + self._new_tokens <= base.context]
        said = answer(
            base,
            [asked[p] for p in fits],
            new_tokens=self._new_tokens,
            listen=listen,
            stage=STAGE,
        )
        found = dict.fromkeys(prompts, "")
        yield found | {p: reply.text for p, reply in zip(fits, said, strict=True)}


class ServerSource:
    """A server that speaks OpenAI's chat interface, asked for its likeliest words."""

    def __init__(self, settings: WriterSettings) -> None:
        self._settings = settings
        self._refused = ""
        """What it said of a prompt that it would not answer."""

    def key(self) -> str:
        own = self._settings
        return sha256_json([own.url, own.model, own.new_tokens])

    def replies(self, prompts: Sequence[str], listen: Listener) -> Iterator[dict[str, str]]:
        """The replies.

        Raises:
            CapabilityError: it does not answer, or answers none of the prompts.
        """
        each = 8 * self._settings.at_once
        answered = False
        with ThreadPoolExecutor(self._settings.at_once) as threads:
            for begin in range(0, len(prompts), each):
                listen(Step(STAGE, begin, len(prompts)))
                some = prompts[begin : begin + each]
                said = list(threads.map(self._reply, some))
                answered |= any(reply is not None for reply in said)
                if not answered:
                    raise CapabilityError(
                        f"{self._settings.host} answers no prompt ({self._refused}).",
                        "correct augment.writer: its model, or new_tokens.",
                    )
                yield {p: reply or "" for p, reply in zip(some, said, strict=True)}
        listen(Step(STAGE, len(prompts), len(prompts)))

    def _reply(self, prompt: str) -> str | None:
        """None: the server will not answer this one."""
        own = self._settings
        body = {
            "model": own.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": own.new_tokens,
            "temperature": 0,
            "seed": 0,
        }
        data = self._asked(json.dumps(body).encode())
        if data is None:
            return None
        try:
            text = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise CapabilityError(
                f"{own.host} does not answer as OpenAI's chat interface does: {_short(data)}.",
                "give the address up to /v1 in augment.writer.url.",
            ) from error
        # A model that thinks aloud is asked for what it says then.
        return _THOUGHTS.sub("", text or "", count=1)

    def _asked(self, body: bytes) -> bytes | None:
        own, why = self._settings, ""
        for again in range(_TRIES):
            if again:
                time.sleep(_WAIT_SECONDS * 2**again)
            try:
                with urllib.request.urlopen(self._request(body), timeout=_TIMEOUT) as response:
                    return bytes(response.read())
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code}: {_short(error.read())}"
                if error.code in (401, 403, 404):
                    raise CapabilityError(
                        f"{own.host} refuses ({why}).",
                        "put its key into an environment variable, and its name into `key:`."
                        if error.code != 404
                        else "correct augment.writer's url, which ends with /v1, or model.",
                    ) from error
                if error.code < 500 and error.code not in (408, 409, 429):
                    self._refused = why
                    return None
            except (OSError, TimeoutError) as error:
                why = str(getattr(error, "reason", error))
        raise CapabilityError(
            f"{own.host} does not answer ({why}).",
            "start the server or correct augment.writer.url; what was written is kept.",
        )

    def _request(self, body: bytes) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if self._settings.key:
            key = os.environ.get(self._settings.key)
            if not key:
                raise CapabilityError(
                    f"The environment variable {self._settings.key} is empty.",
                    "put the server's key into it.",
                )
            headers["Authorization"] = f"Bearer {key}"
        place = f"{str(self._settings.url).rstrip('/')}/chat/completions"
        return urllib.request.Request(place, data=body, headers=headers)


def writer_of(
    settings: WriterSettings | None,
    own: Callable[[], Base],
    name: str,
    folder: Path,
    listen: Listener,
) -> KeptWriter:
    """Who writes for a study.

    Args:
        settings: None: the study's own base.
        own: loads the study's base.
        name: of the study's base.
    """
    source: Source
    if settings is None:
        source = BaseSource(own)
    elif settings.base is not None:
        source, name = BaseSource(_loaded(settings.base), settings.new_tokens), settings.base
    else:
        source, name = ServerSource(settings), f"{settings.model} at {settings.host}"
    return KeptWriter(source, name, folder, listen)


def _loaded(name: str) -> Callable[[], Base]:
    """Loads a base once, for as long as this is held."""

    @cache
    def load() -> Base:
        return load_base(name)

    return load


def _short(data: Any) -> str:
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_SAID else f"{text[:_LONGEST_SAID]}…"
