"""An adapter folder opened on its base, whatever its method, with a head where it has one."""

from pathlib import Path

from domainwright.methods import METHODS, _head
from domainwright.methods._adapter import Adapter
from domainwright.methods._folders import method_of
from domainwright.models.base import Base


def open_adapter(base: Base, folder: Path) -> Adapter:
    """The adapter, not attached.

    Raises:
        DataError: it is damaged, or of another base.
    """
    if _head.has_head(folder):
        return _head.load(base, folder)
    adapter: Adapter = METHODS.get(method_of(folder)).load(base, folder)
    return adapter
