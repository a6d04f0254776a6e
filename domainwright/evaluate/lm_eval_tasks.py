"""Tasks of lm-evaluation-harness by name, answered by our engine.

Which documents are asked, the prompts with their examples, filters, metrics and their standard
errors are lm-eval's own; only the model is ours. lm-eval is imported when a task is named, and
nothing is downloaded: a task whose data is not on this machine is refused.

A task's folder may hold Python code (`!function`), and loading the task runs it.

Source: lm_eval 0.4.13, evaluator.py (`simple_evaluate`: seeds and number of examples).
"""

import difflib
import io
import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from domainwright.core.artifacts import sha256_json
from domainwright.core.errors import (
    CapabilityError,
    ConfigError,
    DataError,
    DomainwrightError,
    UnknownName,
)
from domainwright.core.progress import Listener, Step, quiet
from domainwright.evaluate._lm_eval_engine import Engine
from domainwright.evaluate._lm_eval_results import TaskResult, result
from domainwright.models.base import Base

SHOT_SEED, PYTHON_SEED = 1234, 0
"""lm-eval's defaults: which examples are shown, and what a task's own code draws."""
RESAMPLES = 1000
"""For the standard error of a metric that is no mean; lm-eval's default takes 100,000."""
ALONE = "DISABLE_MULTIPROC"
"""The variable that keeps lm-eval's bootstrap in one process."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking tasks."""

    results: tuple[TaskResult, ...]
    notes: tuple[str, ...]
    """What lm-eval warned of."""


class Tasks:
    """Tasks and groups whose data was read, ready to be asked any number of times."""

    def __init__(self, loaded: dict[str, Any], draws: "_Draws", limit: int | None) -> None:
        self._loaded, self._draws, self._limit = loaded, draws, limit
        self.notes: list[str] = []

    @property
    def names(self) -> list[str]:
        """Of the single tasks."""
        return list(self._loaded["tasks"])

    @property
    def single(self) -> Mapping[str, Any]:
        """lm-eval's own objects of the single tasks."""
        return dict(self._loaded["tasks"])

    @contextmanager
    def running(self) -> Iterator["_State"]:
        """As lm-eval runs its tasks, each asking with the same random numbers and examples."""
        with _as_lm_eval(self._draws) as state:
            for task in self._loaded["tasks"].values():
                task.set_fewshot_seed(seed=SHOT_SEED)
            yield state

    def requests(self) -> dict[str, list[str]]:
        """Of each single task, the texts of all its requests in their order."""
        with self.running():
            found = {}
            for name, task in self._loaded["tasks"].items():
                task.build_all_requests(limit=self._limit)
                found[name] = [str(text) for x in task.instances for text in x.args]
        return found

    def hash(self) -> str:
        """Of everything that is asked and of how it is marked."""
        return sha256_json([self.requests(), self.rules()])

    def rules(self) -> str:
        """Hash of how the tasks are put and marked, without their documents."""
        marked = {
            # Functions are written with their place in memory, which is another each time.
            name: {k: str(v) for k, v in task.dump_config().items() if " at 0x" not in str(v)}
            for name, task in self._loaded["tasks"].items()
        }
        return sha256_json([version("lm_eval"), marked])

    def ask(
        self,
        base: Base,
        *,
        chat: bool = False,
        errors: bool = True,
        listen: Listener = quiet,
        stage: str = "tasks",
        engine: Callable[[Base, Listener, str], Engine] = Engine,
    ) -> Asked:
        """The tasks on the base with whatever hangs on it.

        Args:
            chat: write prompts with the base's chat template; else they are plain text.
            errors: give standard errors; those of metrics that are no mean take a while.
            engine: who answers.

        Raises:
            ConfigError: an answer does not fit into the base's context, or `chat` without template.
            CapabilityError: a task draws answers in a way that our engine does not know.
        """
        from lm_eval.evaluator import evaluate

        answering = engine(base, listen, stage)
        with self.running() as state:
            found = evaluate(
                answering,
                self._loaded,
                limit=self._limit,
                bootstrap_iters=RESAMPLES if errors else 0,
                apply_chat_template=chat,
                fewshot_as_multiturn=True,
            )
        names = found["results"]
        results = tuple(result(name, found) for name in names)
        notes = dict.fromkeys((*self.notes, *(line.split("\n")[0] for line in state.warned)))
        return Asked(tuple(r for r in results if r.metrics), tuple(notes))


def load_tasks(
    names: Sequence[str],
    *,
    include: str | Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    listen: Listener = quiet,
) -> Tasks:
    """The tasks, groups or tags called `names`, or in YAML files of these paths, with their data.

    Args:
        include: a folder with YAML tasks of your own; one of them wins over lm-eval's of its name.
        shots: examples shown in each prompt; None: as the task says. A task that says 0 keeps it.
        limit: documents asked of each task, from the top; None: all.

    Raises:
        CapabilityError: lm-eval, what the task needs, or its data is not on this machine.
        DataError: no such folder, or the task cannot be read.
        UnknownName: there is no task of that name.
        ConfigError: the task is none for a language model that only answers.
    """
    if find_spec("lm_eval") is None:
        raise CapabilityError(
            f"The task {names[0]!r} is lm-eval's, and lm-eval is not installed.",
            "run: pip install 'domainwright[lm-eval]'",
        )
    if include is not None and not Path(include).is_dir():
        raise DataError(f"There is no folder {include}.", "give a folder with YAML tasks.")
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}}
    draws = _Draws(
        random.Random(PYTHON_SEED).getstate(), np.random.RandomState(SHOT_SEED).get_state()
    )
    listen(Step("read tasks", 0, len(names)))
    for number, name in enumerate(names, 1):
        with _as_lm_eval(draws) as state:
            found = _loaded(name, None if include is None else str(include))
        draws = state.draws
        for kind in loaded:
            loaded[kind] |= found[kind]
        listen(Step("read tasks", number, len(names)))
    tasks = Tasks(loaded, draws, limit)
    for name, task in loaded["tasks"].items():
        _check_kind(name, task)
        own = task.get_config("num_fewshot")
        # As simple_evaluate: a task that was written for no examples is shown none.
        if shots is not None and own != 0:
            task.set_config(key="num_fewshot", value=shots)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        elif own == 0 and shots:
            tasks.notes.append(f"{name} is asked without examples: its own file says so")
    return tasks


def _check_kind(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(
            f"The task {name!r} runs code that the model writes.", "choose another task."
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(
            f"The task {name!r} shows pictures or plays sound.", "choose a task of text alone."
        )


def _loaded(name: str, include: str | None) -> dict[str, Any]:
    manager = _manager(name, include)
    remedy = "correct its YAML file; a path in data_files is relative to the current folder."
    with foreign(f"load the task {name!r}", remedy):
        try:
            found: dict[str, Any] = manager.load([name])
        except ModuleNotFoundError as error:
            raise CapabilityError(
                f"The task {name!r} needs the package {error.name}.",
                f"run: pip install {error.name}",
            ) from error
        except ConnectionError as error:
            raise CapabilityError(
                f"The data of the task {name!r} is not on this machine ({error}).",
                "where there is a network, call datasets.load_dataset with the task's dataset_path "
                "and dataset_name once, and bring its cache here (HF_DATASETS_CACHE).",
            ) from error
    return found


@contextmanager
def foreign(doing: str, remedy: str) -> Iterator[None]:
    """A task's own code runs inside this block, and its data may hold what they like.

    Raises:
        DataError: it raised anything but an error of ours.
    """
    try:
        yield
    except DomainwrightError:
        raise
    except Exception as error:
        raise DataError(
            f"lm-eval cannot {doing} ({type(error).__name__}: {error}).", remedy
        ) from error


def _manager(name: str, include: str | None) -> Any:
    """The index of tasks that knows the name.

    Raises:
        UnknownName: there is none.
    """
    own = _index(include, False)
    # Reading lm-eval's 14,000 files takes ten seconds.
    if _complete(own.task_index, name) or Path(name).is_file():
        return own
    whole = _index(include, True)
    if name not in whole.task_index:
        near = difflib.get_close_matches(name, whole.all_tasks, n=1)
        raise UnknownName(
            f"lm-eval knows no task called {name!r}.",
            f"use {near[0]!r}." if near else "list its tasks with: lm-eval ls tasks",
        )
    return whole


def _complete(index: Mapping[str, Any], name: Any) -> bool:
    """Whether the index holds the task, or the group with all that is in it.

    A tag never: lm-eval's own tasks may carry it too.
    """
    entry = index.get(name) if isinstance(name, str) else None
    if entry is None or entry.kind.name == "TAG":
        return False
    members = (entry.cfg or {}).get("task") if entry.kind.name == "GROUP" else None
    return not isinstance(members, list) or all(_complete(index, x) for x in members)


@cache
def _index(include: str | None, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include, include_defaults=defaults)


@dataclass(frozen=True, slots=True)
class _Draws:
    """Where the random numbers stand that tasks draw from."""

    python: Any
    numpy: Any


@dataclass(slots=True)
class _State:
    draws: _Draws
    """Where they stood in the end."""
    warned: list[str]


@contextmanager
def _as_lm_eval(draws: _Draws) -> Iterator[_State]:
    """lm-eval as its own command runs it, but silent, in one process and without network.

    Its bars and prints would tear our line and spoil `--json`; its bootstrap would fork a process
    that holds a model.
    """
    import datasets
    import evaluate
    import huggingface_hub

    state = _State(draws, [])
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: state.warned.append(record.getMessage())  # type: ignore[method-assign]
    before = _Draws(random.getstate(), np.random.get_state())
    with ExitStack() as stack:
        for place, name in (
            (datasets.config, "HF_HUB_OFFLINE"),
            (huggingface_hub.constants, "HF_HUB_OFFLINE"),
            (evaluate.config, "HF_EVALUATE_OFFLINE"),
        ):
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, True)
        stack.callback(_set_variable, ALONE, os.environ.get(ALONE))
        _set_variable(ALONE, "1")
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        logging.getLogger("lm_eval").addHandler(handler)
        stack.callback(logging.getLogger("lm_eval").removeHandler, handler)
        _continue(draws)
        try:
            yield state
        finally:
            state.draws = _Draws(random.getstate(), np.random.get_state())
            _continue(before)


def _continue(draws: _Draws) -> None:
    random.setstate(draws.python)
    np.random.set_state(draws.numpy)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
