"""Our engine in the place of a model of lm-evaluation-harness.

    loglikelihood            log p(continuation | context)          prefix trees
    loglikelihood_rolling    log p(text), in disjoint windows       prefix trees
    generate_until           text up to the first stop string       continuous batches

What a request means is what HFLM takes it for: a pair is tokenised whole and split behind the
tokens of its context, an empty context is the begin- or end-of-sequence token, long inputs are
cut on the left, and an answer ends at `until`, at end-of-sequence or after `max_gen_toks`.

Source: lm_eval 0.4.13, api/model.py (`TemplateLM`) and models/huggingface.py (`HFLM`).
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.core.progress import Listener, Step
from domainwright.infer._sampling import Sampling
from domainwright.infer.generate import Answer, answer
from domainwright.infer.likelihood import Likelihood, Request, score
from domainwright.models.base import Base

NEW_TOKENS = 256
"""Longest answer of a task that names no length: lm-eval's own default."""
IDLE = {"temperature", "top_p", "top_k", "min_p", "typical_p"}
"""Settings of drawing: without meaning where the likeliest token is taken."""


class Engine:
    """What `lm_eval.evaluator.evaluate` asks of an `LM`, answered by `domainwright.infer`.

    It is none by inheritance: this module loads where lm-eval is not installed.
    """

    rank, world_size = 0, 1
    """One process."""

    def __init__(self, base: Base, listen: Listener, stage: str) -> None:
        self.base, self.stage = base, stage
        self._listen = listen
        # What lm-eval prints is kept off the screen while it runs; what a listener prints is not.
        self._screen = sys.stdout, sys.stderr

    @property
    def tokenizer(self) -> Any:
        """The base's, with the new words of an adapter that hangs on it now."""
        return self.base.tokenizer

    @property
    def prefix(self) -> int:
        """The token before a text that has nothing before it."""
        first, last = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if first is None and last is None:
            raise ConfigError(
                f"The tokenizer of {self.base.source.name} has no begin- or end-of-sequence token.",
                "give the base's tokenizer an eos_token.",
            )
        return int(last if first is None else first)

    @property
    def tokenizer_name(self) -> str:
        return self.base.source.name

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as the base's own template writes it.

        Raises:
            ConfigError: the base has none.
        """
        if not self.base.template.own:
            raise ConfigError(
                f"{self.base.source.name} has no chat template.", "ask without one: drop --chat."
            )
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(nats, whether every token was the likeliest) of each (context, continuation)."""
        return [(x.log_probability, x.greedy) for _, x in self.scored(requests)]

    def scored(self, requests: Sequence[Any]) -> list[tuple[Request, Likelihood]]:
        """The same with what was read: of each (context, continuation), tokens and likelihood."""
        pairs = [self._pair(*request.args[:2]) for request in requests]
        found = score(self.base, pairs, listen=self._show, stage=self.stage)
        return list(zip(pairs, found, strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Nats of each text, every token of it predicted once."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = [
            [
                Request(*make_disjoint_window(window))
                for window in get_rolling_token_windows(
                    token_list=self._ids(request.args[0], self._prefix_text()),
                    prefix_token=self.prefix,
                    max_seq_len=self.base.context,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        asked = [window for own in windows for window in own]
        left = iter(score(self.base, asked, listen=self._show, stage=self.stage))
        return [sum((next(left).log_probability for _ in own), 0.0) for own in windows]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each (context, settings), ended where the settings say."""
        return [text for text, _ in self.written(requests)]

    def written(
        self, requests: Sequence[Any], references: Sequence[list[int]] | None = None
    ) -> list[tuple[str, Answer]]:
        """The same with how it was written.

        Args:
            references: tokens of right answers whose likelihood is wanted too, cut to the length
                that an answer may have.
        """
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(number)
        replies: dict[int, tuple[str, Answer]] = {}
        for numbers in alike.values():
            contexts = [requests[n].args[0] for n in numbers]
            right = [references[n] for n in numbers] if references else None
            written = self._written(contexts, requests[numbers[0]].args[1], right)
            replies.update(zip(numbers, written, strict=True))
        return [replies[number] for number in range(len(requests))]

    def _written(
        self,
        contexts: Sequence[str],
        wanted: Mapping[str, Any],
        references: Sequence[list[int]] | None,
    ) -> list[tuple[str, Answer]]:
        from lm_eval.models.utils import (
            handle_stop_sequences,
            normalize_gen_kwargs,
            postprocess_generated_text,
        )

        settings: dict[str, Any] = dict(normalize_gen_kwargs(dict(wanted), NEW_TOKENS))
        last = self.tokenizer.eos_token_id
        end = None if last is None else self.tokenizer.decode(last, skip_special_tokens=False)
        until = handle_stop_sequences(settings.pop("until", None), eos=end)
        length = settings.pop("max_gen_toks")
        sampling = _sampling(settings)
        room = self.base.context - length
        if room < 1:
            raise ConfigError(
                f"The task's answers may have {length} tokens, and the context of "
                f"{self.base.source.name} is {self.base.context}.",
                "take a base with a longer context, or lower max_gen_toks in a copy of the task.",
            )
        begin = self.tokenizer.bos_token
        prompts = [(self._ids(text, begin) or [self.prefix])[-room:] for text in contexts]
        answers = answer(
            self.base,
            prompts,
            new_tokens=length,
            references=[ids[:length] for ids in references] if references else None,
            stop_texts=[text for text in until if text],
            stops=self._stops(),
            sampling=sampling,
            listen=self._show,
            stage=self.stage,
        )
        # Not their text: it is stripped, and a task's own filters count on the spaces.
        texts = (self.tokenizer.decode(a.ids, skip_special_tokens=True) for a in answers)
        ended = (postprocess_generated_text(text, until, None) for text in texts)
        return list(zip(ended, answers, strict=True))

    def _stops(self) -> set[int]:
        """Tokens at which transformers' `generate` ends: not those of the chat template."""
        wanted = getattr(self.base.model.generation_config, "eos_token_id", None)
        ends = wanted if isinstance(wanted, (list, tuple, set)) else [wanted]
        return {int(x) for x in (*ends, self.tokenizer.eos_token_id) if x is not None}

    def _prefix_text(self) -> str:
        return str(self.tokenizer.decode(self.prefix))

    def _ids(self, text: str, begin: str | None) -> list[int]:
        """Tokens with those that the tokenizer adds, unless the text begins with `begin`."""
        bare = bool(begin) and text.startswith(str(begin))
        ids: list[int] = self.tokenizer(
            text, **({"add_special_tokens": False} if bare else {})
        ).input_ids
        return ids

    def _pair(self, context: str, continuation: str) -> Request:
        spaces = len(context) - len(context.rstrip())
        if spaces == len(context):
            ids = self.base.template.tokens(context + continuation)
            if ids and ids[0] == self.prefix:
                return Request(ids[:1], ids[1:])
            return Request([self.prefix], ids)
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        begin = self._prefix_text()
        before = self._ids(context, begin)
        return Request(before, self._ids(context + continuation, begin)[len(before) :])

    def _show(self, step: Step) -> None:
        out, err = self._screen
        with redirect_stdout(out), redirect_stderr(err):
            self._listen(step)


def longest(wanted: Mapping[str, Any] | None) -> int:
    """Tokens that an answer may have, of a task's generation settings."""
    from lm_eval.models.utils import normalize_gen_kwargs

    return int(normalize_gen_kwargs(dict(wanted or {}), NEW_TOKENS)["max_gen_toks"])


def _sampling(settings: dict[str, Any]) -> Sampling | None:
    """How tokens are drawn, of a task's settings without length and stops; None: the likeliest.

    Raises:
        CapabilityError: the task wants what our engine cannot do.
    """
    drawn = settings.pop("do_sample")
    beams = settings.pop("num_beams", 1)
    temperature = settings.pop("temperature", 0.0)
    other = sorted(set(settings) - (set() if drawn else IDLE))
    if beams != 1:
        other.append(f"num_beams: {beams}")
    if drawn and other == ["top_p"] and settings["top_p"] == 1.0:
        other = []
    if other:
        raise CapabilityError(
            f"The task generates with {', '.join(other)}, which this engine does not know.",
            "ask it with lm-eval's own models, or copy the task and leave that out.",
        )
    return Sampling(temperature=temperature or 1.0) if drawn else None
