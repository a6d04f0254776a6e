"""A tuned model for others to load: merged into its base, or as a PEFT adapter."""

import shutil
from pathlib import Path

import torch

from domainwright.core.errors import ConfigError, DataError
from domainwright.methods import METHODS
from domainwright.methods._peft_format import OWN
from domainwright.models.embedded import quiet_transformers
from domainwright.studies._facts import measured
from domainwright.studies.api import load_run
from domainwright.studies.records import read_verdict

FORMS = ("merged", "peft")


def export(run: Path, output: Path, to: str) -> Path:
    """Write the run's model to `output` and return it.

    Raises:
        ConfigError: an unknown form, or the folder is not empty.
        DataError: the run has no adapter.
    """
    if to not in FORMS:
        raise ConfigError(f"There is no export form {to!r}.", f"use one of: {', '.join(FORMS)}.")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file, not a folder.", "give a new folder with -o.")
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty.", "give a new folder with -o.")
    loaded = load_run(run, _method(run))
    if loaded.adapter is None:
        raise DataError(
            f"{run} holds no adapter: no method was trained in it.",
            "run a study with a method such as lora.",
        )
    if to == "peft":
        if METHODS.get(loaded.adapter.method).peft_type is None:
            raise ConfigError(
                f"PEFT has no type for the method {loaded.adapter.method!r}.",
                "use --to merged where the method merges (`dw methods` says), or serve the run.",
            )
        loaded.adapter.save(output)
        (output / OWN).unlink()  # for readers that know PEFT alone
        loaded.base.tokenizer.save_pretrained(output)
        return output
    model = loaded.base.model
    with torch.no_grad():
        for name, weight in loaded.adapter.merged_parameters():
            model.get_parameter(name).copy_(weight)
    # Our attention plug-in is no name that other programs know.
    model.set_attn_implementation("sdpa")
    with quiet_transformers():
        model.save_pretrained(output)
    loaded.base.tokenizer.save_pretrained(output)
    for file in output.iterdir():
        file.chmod(0o644)
    shutil.copyfile(run / "study.yaml", output / "study.yaml")
    return output


def _method(run: Path) -> str | None:
    """The method to export from a study: of the recommended strategy, else of the best one."""
    if not (run / "verdict.json").is_file():
        return None
    verdict = read_verdict(run / "verdict.json")
    trained = [r for r in measured(verdict) if r.adapter]
    trained.sort(key=lambda r: r.name != verdict.recommendation.strategy)
    return Path(str(trained[0].adapter)).parent.name if trained else None
