"""The model card: what an adapter is, what it was measured to do, and how to load it."""

import json
import re
import shlex
from pathlib import PurePosixPath
from typing import Any

import yaml

from domainwright.core.errors import ConfigError, UnknownName
from domainwright.models.resolve import ALIASES
from domainwright.studies import _facts
from domainwright.studies import _format as f
from domainwright.studies.judge import REFERENCE
from domainwright.studies.records import StrategyResult, Verdict

PEFT = tuple(
    "lora dora qlora prefix prompt ptuning ptuning_v2 multitask_prompt ia3 layernorm".split()
)
"""Methods that PEFT can load, and so are all its other types, called "peft:…". Listed here because
asking a method would import torch."""


def model_card(verdict: Verdict, strategy: str, task: str | None = None) -> str:
    """README.md of a trained strategy, in Markdown with the hub's front matter.

    Args:
        task: whose adapter it is, where every task has its own.

    Raises:
        UnknownName: the verdict has no such strategy.
        ConfigError: the strategy trained nothing, so there is nothing to describe.
    """
    result = _facts.find(verdict, strategy)
    if result is None:
        names = ", ".join(r.name for r in verdict.strategies)
        raise UnknownName(f"The verdict has no strategy {strategy!r}.", f"use one of: {names}.")
    if result.training is None:
        raise ConfigError(
            f"The strategy {strategy!r} has no adapter: it trained nothing.",
            "ask for a strategy with a trained method.",
        )
    parts = [
        _front(verdict, result),
        f"# {_plain(result.name)} on {_plain(verdict.base.get('name'))}: {_plain(verdict.name)}",
        _what(verdict, result) + _whose(result, task),
        "## Measured\n\n" + _measured(verdict, result),
        "## Load it\n\n" + _load(verdict, result, task),
        "## Settings\n\n" + _settings(result),
        "## Limits\n\n" + _limits(verdict, result),
        "## Made with\n\n" + _made(verdict),
    ]
    return "\n\n".join(parts) + "\n"


def _method(result: StrategyResult) -> str:
    """The trained part of a combination: "lora" of "lora+rag"."""
    return result.name.split("+")[0]


def _library(result: StrategyResult) -> str:
    method = _method(result)
    settings = result.training.settings if result.training is not None else {}
    # PEFT reads a head as well, but on another class of model than the card's.
    own = settings.get("gate") or settings.get("head")
    known = method in PEFT or method.startswith("peft:")
    return "peft" if known and not own else "domainwright"


def _base_id(verdict: Verdict) -> str:
    """What a model hub calls the base; a folder keeps its own name."""
    name = str(verdict.base.get("name"))
    return ALIASES.get(name, name)


def _front(verdict: Verdict, result: StrategyResult) -> str:
    tags = ["domainwright", *result.name.split("+"), verdict.study.get("domain")]
    front = {
        "base_model": _base_id(verdict),
        "library_name": _library(result),
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(str(tag) for tag in tags if tag)),
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def _what(verdict: Verdict, result: StrategyResult) -> str:
    training, data = result.training, verdict.data
    assert training is not None  # checked by `model_card`
    files = ", ".join(_plain(s.file) for s in data.sources if s.role == "train") or "no file"
    words = [
        f"Trained with `{_code(_method(result))}` on {f.count(data.train)} rows of {files} "
        f"({f.count(training.tokens)} tokens in {f.count(training.steps)} steps, "
        f"{f.minutes(training.minutes)} minutes). {f.parameters(training.trainable)} of "
        f"{f.parameters(verdict.base.get('parameters'))} parameters are trainable.",
    ]
    if result.kind == "combination":
        words.append(
            f"The figures below are of the whole strategy `{_code(result.name)}`; these weights "
            "alone are one part of it."
        )
    if result.gate:
        words.append(
            "The strategy asks them only where its gate, in the run's folder `gate`, finds that a "
            "question belongs to the domain, and the untouched base otherwise; loaded alone they "
            "answer everything."
        )
    if result.name == verdict.recommendation.strategy:
        words.append("The study recommends this strategy.")
    return " ".join(words)


def _whose(result: StrategyResult, task: str | None) -> str:
    """Which of several adapters this is, and what it brought for its task."""
    if task is None:
        return ""
    others = ", ".join(_plain(x) for x in result.adapters if x != task)
    return (
        f" These weights answer the task {_plain(task)} alone; {others} have their own. Figures "
        "below are of all of them, on all tasks; forgetting is that of the one that forgets most."
    )


def _measured(verdict: Verdict, result: StrategyResult) -> str:
    if result.score is None:
        return f"Not measured: {result.status}, {_plain(result.reason or 'no reason was given')}"
    unit, zero = f.unit(verdict.score), _facts.find(verdict, REFERENCE)
    rows = [(f"{unit.label}, {unit.better}", unit.levels(result.score))]
    if zero is not None and zero is not result:
        rows.append(("the same, untouched base", unit.levels(zero.score)))
    if d := result.difference:
        rows.append((f"difference ({_facts.decision(result)})", unit.changes(d)))
        rows.append(("p-value after Holm", f.p_value(d.p_holm)))
    if result.retention:
        kept = result.retention
        rows += [
            ("forgetting on general text, nats per token", f.nats(kept.nats_change)),
            ("the same, bits per byte", f.nats(kept.bits_change)),
            ("change on general choices", f.SHARE.changes(kept.accuracy_change)),
        ]
        rows += [
            (
                f"change of {_plain(x.metric)} on {_plain(x.name)}, "
                f"{'higher' if x.higher_is_better else 'lower'} is better",
                f.nats(x.change),
            )
            for x in kept.tasks
        ]
        if result.gate:
            alone = f.nats(result.gate.ungated_change)
            rows.append(("forgetting of these weights without their gate, nats per token", alone))
    else:
        rows.append(("forgetting", "not measured"))
    rows.append(("seconds per answer", f.seconds(result.seconds_per_answer)))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"On {_facts.asked_items(verdict.data)} in {f.count(verdict.data.groups)} "
        f"independent groups; brackets hold 95 % intervals.{_folded(verdict, result)}\n\n"
        f"| measure | value |\n| --- | --- |\n{table}"
    )


def _folded(verdict: Verdict, result: StrategyResult) -> str:
    return f" {_facts.not_itself(verdict.data, result.name)}" if verdict.data.folds else ""


def _load(verdict: Verdict, result: StrategyResult, task: str | None) -> str:
    base = _base_id(verdict)
    run = PurePosixPath("runs", verdict.name)
    whose = "" if task is None else f" --strategy {_shell(result.name)} --task {_shell(task)}"
    chat = f"With Domainwright:\n\n```sh\ndw chat {_shell(str(run))}{whose}\n```"
    folder = (result.adapter if task is None else result.adapters[task]) or "adapter"
    if _library(result) == "domainwright":
        return f"{chat}\n\nPEFT has no such method, so it cannot load this adapter."
    # repr: a name with a quote in it must not become code.
    widened = bool(result.training and result.training.settings.get("new_tokens"))
    wider = [
        "if len(tokenizer) > base.get_input_embeddings().num_embeddings:",
        "    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)",
    ]
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({base!r})",
        f"tokenizer = AutoTokenizer.from_pretrained({(folder if widened else base)!r})",
        *(wider if widened else []),
        f"model = PeftModel.from_pretrained(base, {folder!r})",
    ]
    code = "\n".join(lines).replace("```", "")
    return f"{chat}\n\nWith PEFT:\n\n```python\n{code}\n```"


def _settings(result: StrategyResult) -> str:
    assert result.training is not None  # checked by `model_card`
    rows = {**result.training.settings, "best step": result.training.best_step}
    return "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in rows.items())


def _limits(verdict: Verdict, result: StrategyResult) -> str:
    data, unit = verdict.data, f.unit(verdict.score)
    detectable = data.detectable if data.detectable_measured is None else data.detectable_measured
    lines = [
        f"It fits only the base above (SHA-256 `{_code(verdict.base.get('sha256'))}`).",
        "Measured on this study's questions only; other questions may turn out otherwise.",
        f"The test set can show a difference of {unit.size(detectable)} in {unit.label}; smaller "
        "ones pass unseen.",
        "General ability was watched in one small suite, not in every use of the base.",
    ]
    if verdict.base.get("origin") == "embedded":
        lines.append(
            "It was trained on the embedded weights, which are rounded to four bits; on the "
            "original weights its scores may differ, and Domainwright refuses them."
        )
    over = _facts.over_limit(verdict, result)
    for x in over.excesses if over else ():
        lines.append(f"It lost more than the study's limit: it {_plain(x.said)}.")
    not_for = verdict.study.get("not_for")
    lines.append(
        f"Not for: {_plain(not_for)}"
        if not_for
        else "Not for: decisions about people that no person checks."
    )
    return "\n".join(f"- {line}" for line in lines)


def _made(verdict: Verdict) -> str:
    versions = ", ".join(f"{_plain(k)} {_plain(v)}" for k, v in verdict.versions.items())
    files = [f"- {_plain(s.file)}: `{_code(s.sha256)}`" for s in verdict.data.sources]
    return "\n".join(
        [
            f"{versions}; seed {verdict.seed}; {_plain(verdict.created)}.",
            "",
            "Data, by SHA-256:",
            "",
            *files,
        ]
    )


def _plain(value: Any) -> str:
    """A value as text that Markdown shows as it is: one line, no markup, no HTML."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    # Not the underscore: inside a word Markdown leaves it alone, and names are full of it.
    return re.sub(r"([\\`*\[\]|!#])", r"\\\1", text)


def _code(value: Any) -> str:
    """For inside backticks."""
    return " ".join(str(value).replace("`", "'").split())


def _shell(path: str) -> str:
    return shlex.quote(" ".join(path.replace("`", "'").split()))
