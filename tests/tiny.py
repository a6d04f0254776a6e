"""Tiny random models and a tokenizer, built from configurations, never downloaded.

The weights are drawn much larger than a real initialisation: at a standard deviation of
0.02 the attention of two small layers hardly shows in the logits, and a wrong mask would
hide below every tolerance.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.pytorch_utils import Conv1D

from domainwright.core.records import Chat, Message
from domainwright.core.seeds import generator
from domainwright.models.base import Base, prepare
from domainwright.models.forms import TrainRow
from domainwright.models.resolve import Source

VOCABULARY = 320
START, END, BEGIN = "<|im_start|>", "<|im_end|>", "<s>"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "What is warfarin used for? It thins the blood and prevents clots.",
    "the patient takes the tablets with water in the morning and in the evening",
    "Question: which of these is right? Answer: the second one, because it is.",
]


@cache
def _bpe() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        special_tokens=[START, END, BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS * 4, trainer)
    return bpe.to_str()


def tiny_tokenizer(
    chat_template: str | None = CHATML, *, bos: bool = False
) -> hf.PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML; end-of-sequence = pad = <|im_end|>, as in SmolLM2."""
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe()),
        eos_token=END,
        pad_token=END,
        bos_token=BEGIN if bos else None,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_GPT = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
WINDOW = 6
"""Sliding window of the families that have one: shorter than the test documents."""

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_LLAMA, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", _LLAMA),
    "qwen3": ("Qwen3Config", {**_LLAMA, "head_dim": 8}),
    "mistral": ("MistralConfig", {**_LLAMA, "sliding_window": WINDOW}),
    "gemma": ("GemmaConfig", {**_LLAMA, "head_dim": 8}),
    "gemma2": (
        "Gemma2Config",
        {
            **_LLAMA,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "phi": ("PhiConfig", _LLAMA),
    "phi3": ("Phi3Config", {**_LLAMA, "sliding_window": WINDOW}),
    "gpt2": (
        "GPT2Config",
        {**_GPT, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        {
            **_GPT,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    ),
    "mamba": (
        "MambaConfig",
        {
            **_GPT,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "state_size": 4,
        },
    ),
}
PACKED = [name for name in CONFIGS if name != "mamba"]
"""Families whose documents share one flat batch."""


def tiny_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any):
    """A random two-layer model of transformers; its logits depend on every weight."""
    kind, values = CONFIGS[family]
    config = getattr(hf, kind)(**{**values, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = hf.AutoModelForCausalLM.from_config(config)
    source = torch.Generator().manual_seed(seed)

    def draw(tensor: torch.Tensor, centre: float, spread: float) -> None:
        tensor.copy_(centre + spread * torch.randn(tensor.shape, generator=source))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.Linear, Conv1D)):
                inputs = module.weight.shape[0 if isinstance(module, Conv1D) else 1]
                draw(module.weight, 0.0, 1.2 * inputs**-0.5)
            elif isinstance(module, torch.nn.Embedding):
                draw(module.weight, 0.0, 0.7)
            elif "Norm" in type(module).__name__:
                # Gemma multiplies by 1 + weight.
                draw(module.weight, 0.0 if "Gemma" in type(module).__name__ else 1.0, 0.2)
            else:
                continue
            if getattr(module, "bias", None) is not None:
                draw(module.bias, 0.0, 0.2)
    return model.to(dtype).eval()


def tiny_base(
    family: str = "llama",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    **changes: Any,
) -> Base:
    """A tiny model, wrapped as every base is."""
    source = Source(f"tiny-{family}", Path("/nowhere"), "folder")
    digest = sha256(f"{family} {seed}".encode()).hexdigest()
    model = tiny_model(family, dtype, seed, **changes)
    return prepare(model, tokenizer or tiny_tokenizer(), source, digest)


def tiny_folder(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """A saved model that `load_base` reads."""
    tiny_model(family, seed=seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def documents(lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    """Random token ids without special tokens."""
    rng = generator(seed, "documents")
    return [rng.integers(3, 300, size=n).tolist() for n in lengths]


def train_rows(lengths: tuple[int, ...], seed: int = 0, *, prompt: int = 2) -> list[TrainRow]:
    """Random documents, supervised after their first `prompt` tokens."""
    return [
        TrainRow(f"row-{n}", ids, [i >= prompt for i in range(len(ids))])
        for n, ids in enumerate(documents(lengths, seed))
    ]


def chat(*turns: str, name: str = "row", group: str = "", system: str | None = None) -> Chat:
    """A conversation of alternating user and assistant turns."""
    messages = [Message("system", system)] if system is not None else []
    for number, text in enumerate(turns):
        messages.append(Message("assistant" if number % 2 else "user", text))
    return Chat(id=name, group=group or name, file="f.jsonl", line=1, messages=tuple(messages))


def own_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits (T, V) of one document by transformers' own eager path: the oracle."""
    kept = model.config._attn_implementation
    model.set_attn_implementation("eager" if kept != "eager" else kept)
    try:
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        model.set_attn_implementation(kept)
