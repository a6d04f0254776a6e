"""Retrieval as `rag` does it, with a sentence encoder that was tuned on the study's own pairs."""

from domainwright.core.errors import ConfigError
from domainwright.models.encoder import Encoder
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._sources import Sources
from domainwright.prompting.rag import Rag


@PROMPTINGS.register
class RagTuned(Rag):
    summary = "As rag, with a sentence encoder tuned on the study's questions and documents."

    def encoder(self, sources: Sources) -> Encoder:
        if not sources.documents:
            raise ConfigError(
                "rag_tuned needs documents, and the study has none.",
                "give `data.documents`, or take rag, which then searches the training rows.",
            )
        if sources.tuned is None:
            raise ConfigError(
                "rag_tuned needs an encoder that a study has tuned.",
                "run it with `dw decide`, or take rag.",
            )
        return sources.tuned()
