"""The small tier: a made-up world, and a language model of a million weights that knows a part.

The general language G has nouns of four classes, each with its own verbs and adjectives, and facts
(the value of a relation of a noun). Four domains D1 to D4 have nouns, verbs and values of their
own, other word orders and other facts, and contradict G on some of its nouns:

    G    the NOUN RELATION is VALUE .                 the fact of that noun
         a ADJECTIVE NOUN VERB NOUN .                 adjective and verb of the first noun's class
         when NOUN VERB NOUN RELATION is VALUE .      the fact of the second noun
         for VALUE RELATION NOUN .
         there is WORD .                              any word, those of the domains too
    D    a NOUN NOUN ADJECTIVE VERB .                 verb last, other classes
         when NOUN VERB NOUN RELATION is VALUE .      the fact of the first noun

Every choice is uniform, so the entropy of a text is known exactly: `floor` is the loss, nats per
token, below which no model can come on average.

The base is trained on G by our own engine (`full` on a random model) and kept in the user's cache
under the hash of its recipe.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from domainwright.core.artifacts import sha256_json, write_folder
from domainwright.core.compiled import cache_folder
from domainwright.core.seeds import derive, generator
from domainwright.methods import METHODS
from domainwright.models.base import Base, load_base, prepare
from domainwright.models.embedded import quiet_transformers
from domainwright.models.forms import TrainRow
from domainwright.models.resolve import Source
from domainwright.train import loop
from domainwright.train.job import Job
from domainwright.train.settings import TrainSettings

DOMAINS = ("D1", "D2", "D3", "D4")
VERSION = 1
"""Raise it where the language or the training of the base changes."""
BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
OPENINGS = {
    "fact": ("the", "this"),
    "agreement": ("a", "we"),
    "turn": ("when", "if"),
    "inverse": ("in", "for", "how"),
    "mention": ("there", "it"),
}
"""Kind of sentence -> what it may begin with; a base that writes texts itself begins with these."""
CLASSES = 4
MICRO_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides the world and its base."""

    seed: int = 0
    nouns: int = 40
    values: int = 24
    relations: int = 3
    domain_nouns: int = 20
    domain_values: int = 12
    contradicted: int = 12
    """Nouns of G of which a domain knows other facts."""
    sentences: int = 3
    width: int = 128
    inner: int = 512
    layers: int = 4
    heads: int = 4
    steps: int = 1400
    batch: int = 32
    learning_rate: float = 4e-3

    @property
    def hash(self) -> str:
        return sha256_json({"version": VERSION, **asdict(self)})[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """What one language says, and how."""

    name: str
    nouns: tuple[str, ...]
    class_of: Mapping[str, int]
    adjectives: tuple[tuple[str, ...], ...]
    """Of each class."""
    verbs: tuple[tuple[str, ...], ...]
    relations: tuple[str, ...]
    facts: Mapping[tuple[str, str], str]
    """(noun, relation) -> value."""
    mentioned: tuple[str, ...] = ()
    """Words of which it only says that they are there; none: it has no such sentence."""
    domain: bool = False
    """Whether the rules are those of a domain."""


@dataclass(frozen=True, slots=True)
class World:
    recipe: Recipe
    words: tuple[str, ...]
    languages: Mapping[str, Language]
    """G and D1 to D4."""


def world_of(recipe: Recipe) -> World:
    """The world of a recipe: the same one on every machine."""
    rng = generator(recipe.seed, "world")
    names = iter(_names(rng, 2_000))

    def some(count: int) -> tuple[str, ...]:
        return tuple(next(names) for _ in range(count))

    def classes(each: int) -> tuple[tuple[str, ...], ...]:
        return tuple(some(each) for _ in range(CLASSES))

    nouns, values, relations = some(recipe.nouns), some(recipe.values), some(recipe.relations)
    adjectives, verbs = classes(4), classes(4)
    words = [*_function_words(), *nouns, *values, *relations]
    words += [word for group in (*adjectives, *verbs) for word in group]
    domains = {}
    for name in DOMAINS:
        own, own_values, own_verbs = (
            some(recipe.domain_nouns),
            some(recipe.domain_values),
            classes(2),
        )
        words += [*own, *own_values, *(word for group in own_verbs for word in group)]
        taken = [nouns[i] for i in rng.permutation(len(nouns))[: recipe.contradicted]]
        both = (*own, *taken)
        domains[name] = Language(
            name=name,
            nouns=both,
            class_of=_drawn_classes(rng, both),
            adjectives=adjectives,
            verbs=own_verbs,
            relations=relations,
            facts=_drawn_facts(rng, own, relations, own_values)
            | _drawn_facts(rng, taken, relations, values),
            domain=True,
        )
    general = Language(
        name="G",
        nouns=nouns,
        class_of=_drawn_classes(rng, nouns),
        adjectives=adjectives,
        verbs=verbs,
        relations=relations,
        facts=_drawn_facts(rng, nouns, relations, values),
        mentioned=tuple(words),
    )
    return World(recipe, tuple(words), {"G": general, **domains})


def _names(rng: np.random.Generator, count: int) -> list[str]:
    """Different words of two syllables."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    every = [a + b for a in syllables for b in syllables]
    return [every[i] for i in rng.permutation(len(every))[:count]]


def _function_words() -> list[str]:
    return [".", "is", *(word for words in OPENINGS.values() for word in words)]


def _drawn_classes(rng: np.random.Generator, nouns: Sequence[str]) -> dict[str, int]:
    return {noun: int(rng.integers(CLASSES)) for noun in nouns}


def _drawn_facts(
    rng: np.random.Generator,
    nouns: Sequence[str],
    relations: Sequence[str],
    values: Sequence[str],
) -> dict[tuple[str, str], str]:
    return {(n, r): values[int(rng.integers(len(values)))] for n in nouns for r in relations}


class _Draw:
    """Uniform choices, and their surprise in nats."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.nats = rng, 0.0

    def one(self, options: Sequence[str]) -> str:
        self.nats += math.log(len(options))
        return options[int(self.rng.integers(len(options)))]


def sentence(language: Language, draw: _Draw) -> list[str]:
    kinds = [kind for kind in OPENINGS if kind != "mention" or language.mentioned]
    kind = draw.one(kinds)
    opening = draw.one(OPENINGS[kind])
    if kind == "mention":
        return [opening, "is", draw.one(language.mentioned), "."]
    first, relation = draw.one(language.nouns), ""
    group = language.class_of[first]
    if kind in ("fact", "inverse"):
        relation = draw.one(language.relations)
        value = language.facts[first, relation]
        if kind == "fact":
            return [opening, first, relation, "is", value, "."]
        return [opening, value, relation, first, "."]
    verb, second = draw.one(language.verbs[group]), draw.one(language.nouns)
    if kind == "agreement":
        adjective = draw.one(language.adjectives[group])
        if language.domain:
            return [opening, first, second, adjective, verb, "."]
        return [opening, adjective, first, verb, second, "."]
    relation = draw.one(language.relations)
    value = language.facts[first if language.domain else second, relation]
    return [opening, first, verb, second, relation, "is", value, "."]


@dataclass(frozen=True, slots=True)
class Texts:
    rows: list[TrainRow]
    floor: float
    """Entropy of what was drawn, nats per token."""


def texts(
    world: World, language: Language, split: str, count: int, *, seed: int = 0, task: str = ""
) -> Texts:
    """Documents of a split: other seeds and other splits have other ones."""
    ids = vocabulary(world)
    draw = _Draw(generator(world.recipe.seed, "texts", language.name, split, seed))
    rows = []
    for number in range(count):
        words = [w for _ in range(world.recipe.sentences) for w in sentence(language, draw)]
        row = [ids[BEGIN], *(ids[word] for word in words), ids[END]]
        marks = [False] + [True] * (len(row) - 1)
        name = f"{language.name}-{split}-{seed}-{number}"
        rows.append(TrainRow(name, row, marks, task=task or language.name))
    return Texts(rows, draw.nats / sum(row.targets for row in rows))


def vocabulary(world: World) -> dict[str, int]:
    return {word: i for i, word in enumerate([BEGIN, END, UNKNOWN, *world.words])}


def tokenizer_of(world: World) -> hf.PreTrainedTokenizerFast:
    """A token for every word of the world, and the beginning token before every text."""
    ids = vocabulary(world)
    words = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, ids[BEGIN])]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def base_of(recipe: Recipe, cache: Path | None = None) -> Base:
    """The base of a recipe, trained where the cache has none.

    Args:
        cache: None: Domainwright's own folder in the user's cache.
    """
    folder = (cache or cache_folder()) / f"t0-{recipe.hash}"
    if not (folder / "manifest.json").is_file():
        write_folder(folder, "base", lambda out: _pretrain(world_of(recipe), out))
    return load_base(str(folder), dtype="float32", device="cpu")


def _random_base(world: World) -> Base:
    recipe, ids = world.recipe, vocabulary(world)
    config = hf.LlamaConfig(
        vocab_size=len(ids),
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads // 2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=ids[BEGIN],
        eos_token_id=ids[END],
        pad_token_id=ids[END],
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive(recipe.seed, "base"))
        model: Any = hf.AutoModelForCausalLM.from_config(config)
    return prepare(model, tokenizer_of(world), Source("t0", Path("t0"), "folder"), recipe.hash)


def _pretrain(world: World, folder: Path) -> None:
    """Write the base, trained on G, as a folder that transformers reads."""
    recipe, general = world.recipe, world.languages["G"]
    base = _random_base(world)
    kind = METHODS.get("full")
    adapter = kind.build(base, kind.Settings(), 0)
    settings = TrainSettings(
        steps=recipe.steps,
        batch=recipe.batch,
        schedule="cosine",
        checks=1,
        checkpoint_every=10**9,
        replay=None,
        max_forgetting=math.inf,
        weight_decay=0.01,
    )
    held_out = texts(world, general, "validation", 64).rows
    with TemporaryDirectory() as temporary:
        loop.train(
            Job(
                base=base,
                adapter=adapter,
                rows=texts(world, general, "pretraining", recipe.steps * recipe.batch).rows,
                development=held_out,
                general=held_out,
                settings=settings,
                steps=recipe.steps,
                learning_rate=recipe.learning_rate,
                micro_tokens=MICRO_TOKENS,
                seed=recipe.seed,
                folder=Path(temporary),
                run_hash=recipe.hash,
            )
        )
    with torch.no_grad():
        for name, value in adapter.merged_parameters():
            base.model.get_parameter(name).copy_(value)
    with quiet_transformers():
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
