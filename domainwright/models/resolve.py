"""From what the user wrote as `base` to a folder of safetensors that is safe to load."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from domainwright.core.artifacts import sha256_file, sha256_json
from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.models.embedded import smollm2_folder

ALIASES = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Short name -> hub id."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class Source:
    """A base that was found."""

    name: str
    """As the user wrote it."""
    folder: Path
    origin: str
    """"embedded" (package), "hub" or "folder": the report says which weights were used."""


def resolve(name: str, *, revision: str | None = None, offline: bool | None = None) -> Source:
    """Find the base called `name`: a local folder, an alias, or a hub id.

    An alias takes the original weights where the hub can be reached, and the embedded ones
    where it cannot.

    Raises:
        ConfigError: neither a folder, an alias, nor of the form owner/name.
        CapabilityError: it must be downloaded, and no hub is in reach.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(name, path, "folder")
    if name not in ALIASES and name.count("/") != 1:
        raise ConfigError(
            f"The base {name!r} is no local folder, no alias and no hub id.",
            f"give a folder, an id like owner/name, or one of: {', '.join(ALIASES)}.",
        )
    if offline is None:
        offline = os.environ.get("HF_HUB_OFFLINE", "0") in ("1", "true", "True", "ON", "YES")
    hub_id = ALIASES.get(name, name)
    found = _from_hub(hub_id, revision, local_only=True)
    if found is None and not offline:
        found = _from_hub(hub_id, revision, local_only=False)
    if found is not None:
        return Source(name, found, "hub")
    if name in ALIASES:
        return Source(name, smollm2_folder(), "embedded")
    raise CapabilityError(
        f"The base {name!r} is not on this machine and no model hub could be reached.",
        "download it elsewhere and give its folder, or use smollm2-135m, which needs no hub.",
    )


def _from_hub(hub_id: str, revision: str | None, *, local_only: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                hub_id,
                revision=revision,
                local_files_only=local_only,
                etag_timeout=3,
                allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"],
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None


def check_safe(source: Source, *, allow_pickle: bool, trust_remote_code: bool) -> None:
    """Refuse weights that run code when loaded, and code that comes with a model.

    Raises:
        DataError: only pickle weights, or the config names code of its own.
    """
    folder = source.folder
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise DataError(f"{folder} holds no config.json.", "give the folder of a saved model.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{config_file} is not valid JSON ({error}).", "restore it.") from error
    if "auto_map" in config and not trust_remote_code:
        raise DataError(
            f"{source.name} wants to run its own code ({config['auto_map']}).",
            "read that code, then set `trust_remote_code: true` if you trust it.",
        )
    if not any(folder.glob("*.safetensors")) and not allow_pickle:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        found = f"only {', '.join(pickles)}, which can run code when loaded" if pickles else "none"
        raise DataError(
            f"{source.name} has no .safetensors weights ({found}).",
            "convert them to safetensors, or set `allow_pickle: true` if you trust the file."
            if pickles
            else "give a folder that holds the model's weights.",
        )


def weights_hash(folder: Path) -> str:
    """One hash for the weights and the configuration that gives them meaning.

    Saved tokens such as dtype or library version in config.json do not count: they change
    when the same model is saved again.
    """
    ignored = {
        "_name_or_path",
        "_model_name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "architectures",
        "use_cache",
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", *PICKLES))
    return sha256_json(
        {
            "config": {k: v for k, v in config.items() if k not in ignored},
            "weights": {p.name: sha256_file(p) for p in weights},
        }
    )
