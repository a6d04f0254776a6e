"""The number of trainable parameters of every method, from the sizes in a model's configuration.

Written from methods.md, not from the code: a hook point that is not found, or found twice,
shows here.

Letters: L blocks, D hidden size, F feed-forward size, Q queries (heads x size), K keys, V words.
"""

from types import SimpleNamespace


def sizes(base):
    c = base.model.config
    heads = getattr(c, "num_attention_heads", 1)
    size = getattr(c, "head_dim", None) or c.hidden_size // heads
    keys = getattr(c, "num_key_value_heads", None) or heads
    inner = getattr(c, "intermediate_size", None) or 4 * c.hidden_size
    return SimpleNamespace(
        family=base.source.name.removeprefix("tiny-"),
        L=c.num_hidden_layers,
        D=c.hidden_size,
        F=inner,
        Q=heads * size,
        K=keys * size,
        h=size,
        V=c.vocab_size,
        base=base,
    )


def linears(s):
    """(inputs, outputs) of the linear layers of one block."""
    if s.family == "mamba":  # in, x (time steps, B and C), out
        c = s.base.model.config
        return [(s.D, 2 * s.F), (s.F, c.time_step_rank + 2 * c.state_size), (s.F, s.D)]
    fused = s.family in ("gpt2", "gpt_neox", "phi3")
    attention = [(s.D, s.Q + 2 * s.K)] if fused else [(s.D, s.Q), (s.D, s.K), (s.D, s.K)]
    if s.family in ("gpt2", "gpt_neox", "phi"):
        return [*attention, (s.Q, s.D), (s.D, s.F), (s.F, s.D)]
    up = [(s.D, 2 * s.F)] if fused else [(s.D, s.F), (s.D, s.F)]
    return [*attention, (s.Q, s.D), *up, (s.F, s.D)]


def norms(s):
    """Sum of the sizes of all norms' gains."""
    in_a_block = {"gemma2": 4, "phi": 1, "mamba": 1}.get(s.family, 2) * s.D
    if s.family == "qwen3":
        in_a_block += 2 * s.h
    return s.L * in_a_block + s.D


def lora(s, rank=16):
    return s.L * rank * sum(i + o for i, o in linears(s))


def qlora(s, rank=16):
    return lora(s, rank)


def dora(s, rank=16):
    return lora(s, rank) + s.L * sum(o for _, o in linears(s))


def ia3(s):
    fused = s.family in ("gpt2", "gpt_neox", "phi3")
    return s.L * ((s.Q if fused else 0) + 2 * s.K + s.F)


def layernorm(s):
    return norms(s) * (2 if s.family in ("gpt2", "gpt_neox", "phi") else 1)


def bitfit(s):
    if s.family == "qwen2":
        return s.L * (s.Q + 2 * s.K)
    return s.L * sum(o for _, o in linears(s)) + norms(s)


def full(s):
    return s.base.model.num_parameters()


def top_layers(s):
    """One of two blocks: half of what lies in the blocks, and the last norm."""
    ends = {"gpt2": (s.V + 256) * s.D, "llama": s.V * s.D, "gemma": s.V * s.D}
    ends |= {"gemma2": s.V * s.D, "mamba": s.V * s.D, "phi": 2 * s.V * s.D + s.V}
    norm = s.D * (2 if s.family in ("gpt2", "gpt_neox", "phi") else 1)
    return (full(s) - ends.get(s.family, 2 * s.V * s.D) - norm) // 2 + norm


def bottleneck(s, reduction=16, layers=1):
    width = max(1, s.D // reduction)
    return s.L * layers * (2 * width * s.D + width + s.D)


def prefix(s, rows=20):
    return rows * s.L * 2 * s.K


def ptuning_v2(s):
    return prefix(s, rows=16)


def prompt(s, rows=20):
    return rows * s.D


def ptuning(s, rows=20):
    """The rows that are fed in, and three square layers with their offsets."""
    return rows * s.D + 3 * s.D * s.D + 3 * s.D


def multitask_prompt(s, rows=20, ranks=1):
    return rows * s.D + ranks * (rows + s.D)


def compacter(s, products=4, layers=2):
    """One shared rule; D and M for a matrix, and the offsets."""
    width = max(1, s.D // 32 // products) * products
    return s.L * layers * (3 * s.D + 3 * width) + products**3


def mix_and_match(s):
    return prefix(s, rows=30) + bottleneck(s, reduction=2)


def counted(name, base):
    """The closed form of the method called `name`, at its default settings."""
    return globals()[name](sizes(base))
