"""An adapter as a run begins with it: made anew, or another run's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from domainwright.core.config import from_mapping
from domainwright.methods import METHODS
from domainwright.methods._adapter import Adapter
from domainwright.methods._continued import go_on
from domainwright.methods._head import HeadedAdapter
from domainwright.methods.lora import LoraAdapter
from domainwright.methods.multitask_prompt import MultitaskPromptAdapter
from domainwright.models.base import Base
from domainwright.studies._labels import HeadLabels
from domainwright.studies._opened import open_adapter


def build(
    base: Base,
    method: str,
    method_settings: dict[str, Any],
    seed: int,
    labels: HeadLabels | None = None,
    tasks: Sequence[str] = (),
) -> Adapter:
    """The method's adapter as it begins, not attached; with `labels`, with a head for them.

    Args:
        tasks: learned side by side by an adapter that reads each in a way of its own.
    """
    kind = METHODS.get(method)
    settings = from_mapping(kind.Settings, method_settings, f"methods {method}")
    adapter: Adapter = kind.build(base, settings, seed)
    if tasks:
        assert isinstance(adapter, MultitaskPromptAdapter)
        adapter.learn_tasks(tasks)
    return adapter if labels is None else HeadedAdapter(adapter, *labels)


def gone_on(
    base: Base,
    method: str,
    method_settings: dict[str, Any],
    folder: Path,
    seed: int = 0,
    labels: HeadLabels | None = None,
    task: str | None = None,
) -> Adapter:
    """The adapter in `folder` to be trained further, not attached; its `past` stays as it is.

    Args:
        task: the one to go on with, of those that it learned side by side.

    Raises:
        ConfigError: a folder of its past is gone.
        DataError: it is damaged, of another base, or its past is another one.
    """
    if task is not None:
        settings = from_mapping(METHODS.get(method).Settings, method_settings, f"methods {method}")
        alone: Adapter = METHODS.get(method).of_task(base, settings, folder, task, seed)
        return alone
    opened = open_adapter(base, folder)
    if not method_settings.get("past"):
        return opened
    fresh = build(base, method, method_settings, seed, labels)
    if isinstance(fresh, HeadedAdapter) and isinstance(opened, HeadedAdapter):
        fresh.head.load_state_dict(opened.head.state_dict())
    inner, other = (x.inner if isinstance(x, HeadedAdapter) else x for x in (fresh, opened))
    assert isinstance(inner, LoraAdapter) and isinstance(other, LoraAdapter)
    go_on(inner, other, folder)
    return fresh
