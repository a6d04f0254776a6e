"""A registry that is a folder: the file name is the registered name.

`methods/lora.py` is the method "lora". There is no list to keep in step and no
dotted path in any config file, so a config can name only what ships in the
folder. Nothing is imported until it is asked for; listing the names of every
method costs no torch import.

Names with a colon belong to a family: "peft:vera" is what `methods/_peft_types.py` knows under
"vera". A family is a file too, and is not listed: what it knows may be another library's.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from domainwright.core.errors import UnknownName

T = TypeVar("T")


class Folder(Generic[T]):
    """All plug-ins of one kind.

    Args:
        package: dotted name of the folder, such as "domainwright.methods".
        noun: what one entry is called in messages, such as "method".
        families: {what stands before the colon: file of the folder whose function `member` knows
            what may stand behind it}.
    """

    def __init__(
        self, package: str, noun: str, families: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.package, self.noun, self.families = package, noun, families
        self._found: dict[str, T] = {}

    def __contains__(self, name: str) -> bool:
        """Whether `name` is a file here, or has the form of a family's."""
        family, colon, _ = name.partition(":")
        return family in self.families if colon else name in self.names()

    def names(self) -> list[str]:
        """Names on offer, sorted. Files that begin with "_" are helpers, not entries."""
        path = importlib.import_module(self.package).__path__
        return sorted(m.name for m in pkgutil.iter_modules(path) if m.name[0] != "_")

    def register(self, thing: T) -> T:
        """Class decorator. Use it once per file; the name comes from the file."""
        self._found[thing.__module__.rpartition(".")[2]] = thing
        return thing

    def get(self, name: str) -> T:
        """Import the file called `name` and return what it registered.

        Raises:
            UnknownName: no such file; the message names the closest one.
        """
        family, colon, member = name.partition(":")
        if colon and family in self.families:
            module = importlib.import_module(f"{self.package}.{self.families[family]}")
            found: T = module.member(member)
            return found
        offered = self.names()
        if name not in offered:
            near = difflib.get_close_matches(name, offered, n=1)
            hint = f"use {near[0]!r}" if near else f"choose one of: {', '.join(offered)}"
            raise UnknownName(f"There is no {self.noun} called {name!r}.", f"{hint}.")
        importlib.import_module(f"{self.package}.{name}")
        return self._found[name]
