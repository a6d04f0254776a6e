"""The base that a study names, loaded as the study says."""

from domainwright.models.base import Base, load_base
from domainwright.studies.study import StudySettings


def base_of(study: StudySettings) -> Base:
    """Load it; see `load_base` for the errors."""
    return load_base(
        study.base,
        dtype=study.dtype,
        device=study.device,
        revision=study.revision,
        allow_pickle=study.allow_pickle,
        trust_remote_code=study.trust_remote_code,
        quantise=study.quantise,
    )
