"""Who writes the rows of an augmentation, as a study file says it."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from domainwright.core.errors import ConfigError

NEW_TOKENS = 160
"""Longest reply, of the study's own base too."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterSettings:
    """Another base on this machine, or a server that speaks OpenAI's interface."""

    base: str | None = None
    """Alias, hub id or folder."""
    url: str | None = None
    """Of a server, up to /v1: vLLM, llama.cpp, Ollama, or one on the internet. What is rewritten
    is sent there: training rows, and passages of the documents."""
    model: str | None = None
    """As the server calls it."""
    key: str | None = None
    """Name of the environment variable that holds the server's key."""
    new_tokens: int = NEW_TOKENS
    """Longest reply."""
    at_once: int = 4
    """Requests that a server is sent at the same time."""

    def __post_init__(self) -> None:
        if (self.base is None) == (self.url is None):
            raise ConfigError(
                "augment.writer names " + ("no writer." if self.base is None else "two writers."),
                "set `base: NAME_OR_FOLDER`, or `url:` and `model:` of a server.",
            )
        if self.base is not None and (self.model or self.key):
            raise ConfigError(
                "augment.writer has a base, and model or key of a server.",
                "leave them out, or give `url:` instead of `base:`.",
            )
        if self.url is not None:
            self._check_server(self.url)
        for name in ("new_tokens", "at_once"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"augment.writer.{name} is {getattr(self, name)}.", "give a number from 1."
                )

    def _check_server(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"augment.writer.url is {url!r}.",
                "write it as http://127.0.0.1:11434/v1 or https://HOST/v1.",
            )
        if parts.username or parts.password:
            raise ConfigError(
                "augment.writer.url holds a password.",
                "name an environment variable that holds it: `key: MY_SERVERS_KEY`.",
            )
        if not self.model:
            raise ConfigError(
                "augment.writer.model is missing.", "name the model as the server calls it."
            )
        if self.key is not None and not _VARIABLE.fullmatch(self.key):
            # Never shown: it may be the key itself.
            raise ConfigError(
                "augment.writer.key is no name of an environment variable.",
                "put the key into one, such as MY_SERVERS_KEY, and write its name here.",
            )

    @property
    def host(self) -> str | None:
        """The server's name and port."""
        return urlsplit(self.url).netloc if self.url else None
