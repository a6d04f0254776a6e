"""Scores against hand values and against lm-evaluation-harness's rules, written again here."""

import random

import pytest
from rouge_score import rouge_scorer

from domainwright.core.records import Choice, Text
from domainwright.evaluate.metrics import SCORES, exact_match, normalise, rouge_l, token_f1
from domainwright.evaluate.retained import Retained, Suite, change, measure, shipped_suite
from domainwright.evaluate.tasks import TASKS
from domainwright.maths.bootstrap import Interval
from domainwright.methods import METHODS
from domainwright.models.forms import Prompt, choice_prompt
from tests.tiny import CORPUS, chat, own_logits, tiny_base


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The  Quick, brown fox!", "quick brown fox"),
        ("A theatre; an anagram", "theatre anagram"),
        ("U.S.A.", "usa"),
        ("well-known", "wellknown"),
        ("the", ""),
        ("Łódź\t診断\n", "łódź 診断"),
        ("it's 3.5 mg", "its 35 mg"),
    ],
)
def test_squads_normal_form(text, want):
    assert normalise(text) == want


@pytest.mark.parametrize(
    ("reply", "reference", "f1", "exact"),
    [
        ("the cat", "The cat.", 1.0, 1.0),
        ("a cat sat", "the cat lay", 0.5, 0.0),
        # precision 2/4, recall 2/3
        ("dose is five mg", "five mg daily", 4 / 7, 0.0),
        # A word counts as often as it stands on both sides.
        ("no no no", "no", 0.5, 0.0),
        ("no no", "no no yes yes", 2 / 3, 0.0),
        ("", "cat", 0.0, 0.0),
        ("the", "a", 1.0, 1.0),
        ("", "", 1.0, 1.0),
        ("dog", "cat", 0.0, 0.0),
    ],
)
def test_token_f1_and_exact_match(reply, reference, f1, exact):
    assert token_f1(reply, reference) == pytest.approx(f1)
    assert token_f1(reference, reply) == pytest.approx(f1)
    assert exact_match(reply, reference) == exact


def longest_common(a, b):
    """By recursion over prefixes; the package uses a table."""
    table = {(0, k): 0 for k in range(len(b) + 1)} | {(k, 0): 0 for k in range(len(a) + 1)}
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i, j] = (
                table[i - 1, j - 1] + 1 if x == y else max(table[i - 1, j], table[i, j - 1])
            )
    return table[len(a), len(b)]


@pytest.mark.parametrize("seed", range(5))
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(seed):
    rng = random.Random(seed)
    a, b = ([rng.choice("abcde") for _ in range(rng.randrange(3, 12))] for _ in range(2))
    common = longest_common(a, b)
    want = 2 * common / (len(a) + len(b))
    assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(want)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    assert rouge_l("".join(a), "x") == scorer.score("x", "".join(a))["rougeL"].fmeasure == 0


def test_every_score_is_one_for_the_reference_itself():
    assert {f("warfarin 5 mg", "Warfarin 5 mg") for f in SCORES.values()} == {1.0}


def choice_rows(count=24):
    rng = random.Random(1)
    words = " ".join(CORPUS).split()
    rows = []
    for n in range(count):
        size = rng.randrange(2, 6)
        choices = tuple(
            " ".join(rng.choice(words) for _ in range(rng.randrange(1, 6))) for _ in range(size)
        )
        rows.append(
            Choice(
                id=f"c{n}",
                group=f"g{n}",
                file="f",
                line=n,
                question=rng.choice(CORPUS),
                choices=(*choices[:-1], "診断 " + choices[-1]),
                answer=rng.randrange(size),
            )
        )
    return rows


def likelihood(base, prompt, text):
    """Σ log p of the tokens that `text` adds to `prompt`."""
    ids = base.tokenizer(prompt + text).input_ids
    first = len(base.tokenizer(prompt).input_ids)
    table = own_logits(base.model, ids).double().log_softmax(-1)
    return sum(float(table[i - 1, ids[i]]) for i in range(first, len(ids))), len(ids) - first


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_choices_are_picked_as_in_the_harness(family):
    """`acc` by the sum, `acc_norm` by the sum per character of the choice without its space."""
    base, rows = tiny_base(family), choice_rows()
    prompts = [Prompt(text=choice_prompt(r), passages=("p",)) for r in rows]
    picks = {"accuracy": [], "accuracy_norm": []}
    for row in rows:
        sums = [likelihood(base, choice_prompt(row), " " + c)[0] for c in row.choices]
        per = [s / len(c) for s, c in zip(sums, row.choices, strict=True)]
        picks["accuracy"].append(sums.index(max(sums)))
        picks["accuracy_norm"].append(per.index(max(per)))
    assert picks["accuracy"] != picks["accuracy_norm"]
    both = list(zip(*picks.values(), strict=True))
    read_as = {"balanced_accuracy": "accuracy_norm"}
    for name in TASKS.get("choices").scores:
        items = TASKS.get("choices").run(base, rows, prompts, decide_by=name)
        for row, item, pick, other in zip(
            rows, items, picks[read_as.get(name, name)], both, strict=True
        ):
            assert item.reply == row.choices[pick]
            assert item.mark == (float(pick == row.answer), True)
            assert item.metrics == {
                "accuracy": float(other[0] == row.answer),
                "accuracy_norm": float(other[1] == row.answer),
            }
            value, tokens = likelihood(base, choice_prompt(row), " " + row.choices[row.answer])
            assert item.loss == pytest.approx(-value, abs=1e-3) and item.loss_tokens == tokens
            assert (item.id, item.group, item.passages) == (row.id, row.group, ("p",))
            assert item.reference == row.choices[row.answer]


def test_the_first_of_equal_choices_wins():
    base = tiny_base()
    row = Choice(
        id="1", group="1", file="f", line=1, question="Q", choices=("a", "a", "a"), answer=1
    )
    (item,) = TASKS.get("choices").run(
        base, [row], [Prompt(text=choice_prompt(row))], decide_by="accuracy"
    )
    assert item.mark.correct == 0.0 and item.metrics["accuracy_norm"] == 0.0


def test_written_answers_are_marked_and_their_loss_is_that_of_the_reference():
    base = tiny_base()
    rows = [chat(f"question {n}", f"the answer {n}", name=f"r{n}", group="g") for n in range(3)]
    shown = chat("shown", "example").messages
    prompts = [Prompt(messages=(*shown, *r.messages[:-1]), passages=("p",)) for r in rows]
    items = TASKS.get("answers").run(base, rows, prompts, decide_by="rouge_l", new_tokens=7)
    for row, prompt, item in zip(rows, prompts, items, strict=True):
        asked = base.template.prompt(prompt.messages)
        reference = base.template.tokens(row.answer + "<|im_end|>")
        table = own_logits(base.model, asked + reference).double().log_softmax(-1)
        want = -sum(float(table[len(asked) - 1 + k, t]) for k, t in enumerate(reference))
        assert item.loss == pytest.approx(want, abs=1e-3)
        assert item.loss_tokens == len(reference) and item.tokens_in == len(asked)
        assert item.metrics == {n: f(item.reply, row.answer) for n, f in SCORES.items()}
        assert item.mark.correct == item.metrics["rouge_l"] and item.mark.parsed == bool(item.reply)
        assert item.tokens_out <= 7 and item.seconds > 0 and item.question == row.question
        assert (item.id, item.group, item.reference) == (row.id, "g", row.answer)


def test_an_empty_reply_is_unparsed():
    base = tiny_base()
    (row,) = [chat("question", "answer")]
    prompt = Prompt(messages=row.messages[:-1])
    ids = base.template.prompt(prompt.messages)
    first = int(own_logits(base.model, ids)[-1].argmax())
    base.tokenizer.eos_token = base.tokenizer.convert_ids_to_tokens(first)
    (item,) = TASKS.get("answers").run(base, [row], [prompt], decide_by="token_f1", new_tokens=3)
    assert item.reply == "" and item.mark == (0.0, False) and item.tokens_out == 0


def small_suite():
    texts = tuple(
        Text(id=str(n), group="t", file="f", line=n, text=t) for n, t in enumerate(CORPUS)
    )
    return Suite(texts, tuple(choice_rows(6)))


def test_the_untouched_base_forgets_exactly_nothing():
    base, suite = tiny_base(), small_suite()
    before = measure(base, suite)
    after = measure(base, suite)
    for interval in vars_of(change(before, after)):
        assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)
        assert not interval.decided
    lora = METHODS.get("lora")
    with lora.build(base, lora.Settings(), 0).attached():
        fresh = change(before, measure(base, suite))
    # An adapter that was not trained yet is the base, up to the last bits of a sum.
    assert all(abs(x.mean) < 1e-5 for x in vars_of(fresh))


def vars_of(record):
    values = [getattr(record, name) for name in record.__dataclass_fields__]
    return [x for x in values if isinstance(x, Interval)]


def test_the_change_is_after_minus_before():
    base, suite = tiny_base(), small_suite()
    before, after = measure(base, suite), measure(tiny_base(seed=1), suite)
    got = change(before, after)
    assert got.bits_per_byte.mean == pytest.approx(after.bits_per_byte - before.bits_per_byte)
    assert got.accuracy.mean == pytest.approx(after.accuracy - before.accuracy)
    nats = [
        sum(x.loss / x.loss_tokens for x in model.texts) / len(model.texts)
        for model in (before, after)
    ]
    assert got.nats_per_token.mean == pytest.approx(nats[1] - nats[0])
    assert got.nats_per_token.mean != 0


def test_the_shipped_suite():
    suite = shipped_suite()
    assert len(suite.texts) >= 20 and len(suite.choices) >= 40
    rows = (*suite.texts, *suite.choices)
    assert len({r.id for r in rows}) == len(rows)
    for row in suite.choices:
        assert 0 <= row.answer < len(row.choices) == len(set(row.choices))
        assert all(c.strip() == c and c for c in row.choices)
    share = [sum(r.answer == k for r in suite.choices) / len(suite.choices) for k in range(4)]
    assert max(share) < 0.4  # no place is right so often that always naming it would pay
    assert all(len(row.text) > 100 for row in suite.texts)


def test_accuracies_and_bits_of_a_model():
    got = measure(tiny_base(), small_suite())
    assert isinstance(got, Retained) and got.bits_per_byte > 0 and 0 <= got.accuracy <= 1
    right = sum(x.metrics["accuracy_norm"] for x in got.choices) / len(got.choices)
    assert got.accuracy == pytest.approx(right)
