"""A tuned model for others to load: merged into its base, or as a PEFT adapter."""

import shlex
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from domainwright.core.artifacts import MANIFEST
from domainwright.core.errors import ConfigError, DataError
from domainwright.methods import METHODS
from domainwright.methods._peft_format import OWN
from domainwright.methods.qlora import MERGES, QloraAdapter
from domainwright.models.embedded import quiet_transformers
from domainwright.models.stand_in import dequantised_parameters
from domainwright.studies._base import base_of
from domainwright.studies._choice import parts
from domainwright.studies._facts import measured
from domainwright.studies._folder import STUDY_FILE
from domainwright.studies._format import fixed
from domainwright.studies._gate import FILE, GATE, gate_in_force
from domainwright.studies.api import Run, load_run
from domainwright.studies.records import StrategyResult, read_verdict
from domainwright.studies.refine.champion import in_force
from domainwright.studies.study import read_study

FORMS = ("merged", "peft")


def export(
    run: Path, output: Path, to: str, merge: str | None = None, task: str | None = None
) -> Path:
    """Write the run's model to `output` and return it.

    No form holds a gate. Of a gated strategy the adapter is written, which then answers everything,
    and the gate in `output/gate` with a README that says so; see `without_gate`.

    Args:
        merge: of a qlora run, what its change is added to; one of `qlora.MERGES`. All are
            written in full precision. None: dequant16, the model that was measured.
        task: of METHOD+tasks, the one whose adapter is written.

    Raises:
        ConfigError: an unknown form, the folder is not empty, or no task where there are several.
        UnknownName: no such task.
        DataError: the run has no adapter.
    """
    if to not in FORMS:
        raise ConfigError(f"There is no export form {to!r}.", f"use one of: {', '.join(FORMS)}.")
    if merge is not None and (to != "merged" or merge not in MERGES):
        raise ConfigError(
            f"There is no merge {merge!r} for the form {to!r}.",
            f"use --to merged with one of: {', '.join(MERGES)}.",
        )
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file, not a folder.", "give a new folder with -o.")
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty.", "give a new folder with -o.")
    loaded = _loaded(run, task)
    if loaded.adapter is None:
        raise DataError(
            f"{run} holds no adapter: no method was trained in it.",
            "run a study with a method such as lora.",
        )
    if to == "peft":
        if loaded.adapter.peft_type is None:
            raise ConfigError(
                f"PEFT has no type for the method {loaded.adapter.method!r}.",
                "use --to merged where the method merges (`dw methods` says), or serve the run.",
            )
        loaded.adapter.save(output)
        (output / OWN).unlink()  # for readers that know PEFT alone
        loaded.adapter.tokenizer.save_pretrained(output)
        _write_gate(run, output)
        return output
    with ExitStack() as held:
        model = _merged(run, loaded, merge, task, held)
        # Our attention plug-in is no name that other programs know.
        model.set_attn_implementation("sdpa")
        with quiet_transformers():
            model.save_pretrained(output)
    loaded.adapter.tokenizer.save_pretrained(output)
    for file in output.iterdir():
        file.chmod(0o644)
    shutil.copyfile(run / "study.yaml", output / "study.yaml")
    _write_gate(run, output)
    return output


def _loaded(run: Path, task: str | None) -> Run:
    """What is exported, opened."""
    result = _trained(run)
    if result is None or not result.adapters:
        loaded = load_run(run, trained_method(run))
        return loaded if task is None else loaded.for_task(task)
    if task is None:
        raise ConfigError(
            f"{result.name} has an adapter for every task, and an export holds one.",
            f"say which with --task: {', '.join(result.adapters)}.",
        )
    return load_run(run, result.name).for_task(task)


@torch.no_grad()
def _merged(run: Path, loaded: Run, merge: str | None, task: str | None, held: ExitStack) -> Any:
    """The run's base in full precision, with the adapter in its weights.

    Args:
        held: as long as it is open, the model has rows for the adapter's new words.
    """
    base, adapter = loaded.base, loaded.adapter
    assert adapter is not None
    if merge is not None and not isinstance(adapter, QloraAdapter):
        raise ConfigError(
            f"The merge {merge!r} is one of qlora's, and the run holds {adapter.method!r}.",
            "leave --merge out.",
        )
    if base.quantised:
        # Codes take no weights: the source is read once more for what is to be written.
        base = base_of(replace(read_study(run / STUDY_FILE), quantise=None))
        if not isinstance(adapter, QloraAdapter):
            for name, weight in dequantised_parameters(loaded.base.hooks.linears):
                base.model.get_parameter(name).copy_(weight)
        result, method = _trained(run), trained_method(run)
        own = f"trials/{method}/adapter" if method else "adapter"
        folder = run / result.adapters[task] if result and task else in_force(run, own)
        adapter = METHODS.get(adapter.method).load(base, folder)
    held.enter_context(adapter.speaking())
    if isinstance(adapter, QloraAdapter):
        merged = adapter.merged_parameters(merge or MERGES[0])
    else:
        merged = adapter.merged_parameters()
    if adapter.unties:
        _untie(base.model)
    for name, weight in merged:
        base.model.get_parameter(name).copy_(weight)
    return base.model


def _untie(model: Any) -> None:
    """Give the head a weight of its own, the one that it had."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False
    model.config.get_text_config().tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def trained_method(run: Path) -> str | None:
    """The method to export from a study: of the recommended strategy, else of the best one."""
    result = _trained(run)
    return parts(result.name)[0] if result else None


def without_gate(run: Path) -> str | None:
    """What an export of the run loses with its gate, in words; None: it has none."""
    result = _trained(run)
    if result is None or result.gate is None or result.retention is None:
        return None
    return (
        f"{result.name} is gated, and no exported form holds a gate: what was written answers "
        f"everything with the adapter and forgets {fixed(result.gate.ungated_change.mean, 3)} nats "
        f"per token of general text, where the strategy forgets "
        f"{fixed(result.retention.nats_change.mean, 3)}. The gate lies beside it in {GATE}/; "
        f"`dw chat {shlex.quote(str(run))}` answers with it."
    )


def _write_gate(run: Path, output: Path) -> None:
    if (said := without_gate(run)) is None:
        return
    (output / GATE).mkdir()
    gate = gate_in_force(run, f"trials/{trained_method(run)}/adapter")
    for name in (FILE, MANIFEST):
        shutil.copyfile(gate / name, output / GATE / name)
    (output / GATE / "README.md").write_text(f"{said}\n", encoding="utf-8")


def _trained(run: Path) -> StrategyResult | None:
    """The strategy whose adapter is exported from a study."""
    if not (run / "verdict.json").is_file():
        return None
    verdict = read_verdict(run / "verdict.json")
    trained = [r for r in measured(verdict) if r.adapter or r.adapters]
    trained.sort(key=lambda r: r.name != verdict.recommendation.strategy)
    return trained[0] if trained else None
