"""Dirty files by other recipes than those of ../shared/data/dirty: what was not tuned on.

    python -m tests.curate_bench --again 1      plants with seed 1, and scores

Clean rows of ../shared/data that stand in none of its dirty files, and defects of the same names
planted by other means: other noise, other menus, other formats of numbers, other sentences. Many
of the rows called clean end without a mark or were cut in their source, which costs precision.
"""

import json
import random
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
KINDS = ("instructions", "choices", "text", "preferences")
DOMAINS = ("medical", "legal", "finance", "science")
FOREIGN = {
    "de": ("Was ist dazu zu sagen?", "Die Behandlung richtet sich nach der Ursache.|Der Mieter muss"
           " die Miete bis zum dritten Werktag zahlen.|Das Gericht hat die Klage abgewiesen, weil"
           " sie zu spät kam.|Eine Aktie ist ein Anteil an einem Unternehmen."),
    "es": ("¿Qué se puede decir de esto?", "El tratamiento depende de la causa de los síntomas.|El"
           " inquilino debe pagar la renta antes del día cinco.|El tribunal rechazó la demanda por"
           " falta de pruebas.|La vacuna protege contra la enfermedad durante varios años."),
    "fr": ("Que peut-on en dire ?", "Le traitement dépend de la cause des symptômes.|Le locataire"
           " doit payer son loyer au début du mois.|Une action est une part du capital d'une"
           " société.|Il faut boire beaucoup d'eau quand il fait chaud."),
    "it": ("Che cosa si può dire di questo?", "La cura dipende dalla causa dei sintomi.|Il"
           " tribunale ha respinto la domanda perché era in ritardo.|Un'azione è una parte del"
           " capitale di una società.|Bisogna bere molta acqua quando fa caldo."),
    "pt": ("O que se pode dizer sobre isso?", "O tratamento depende da causa dos sintomas.|O"
           " tribunal rejeitou o pedido porque estava fora do prazo.|Uma ação é uma parte do"
           " capital de uma empresa.|É preciso beber muita água quando faz calor."),
    "nl": ("Wat kan men hierover zeggen?", "De behandeling hangt af van de oorzaak van de"
           " klachten.|De rechtbank heeft de eis afgewezen omdat die te laat kwam.|Een aandeel is"
           " een deel van het kapitaal van een bedrijf.|Je moet veel water drinken als het warm"
           " is."),
}  # fmt: skip
FURNITURE = (
    "About us | Careers | Press | Contact",
    "We use cookies to improve your experience. Accept all",
    "Sign up for our newsletter",
    "© 2021 Example Media. All rights reserved.",
    "Follow us on Twitter and Facebook",
    "Back to top",
    "Print this page",
    "Log in to your account",
    "Skip to navigation",
)


class Planter:
    """Makes defects out of clean texts."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def mojibake(self, text: str) -> str:
        text = f"“{text[:40]}”{text[40:]}".replace(" the ", " the naïve ", 1).replace("'", "’")
        return text.encode().decode("cp1252", "ignore")

    def html(self, text: str) -> str:
        words, place = text.split(" "), self.draw.randrange(len(text.split(" ")))
        words[place] = f"<strong>{words[place]}</strong>"
        items = "</li><li>".join(re.split(r"(?<=[.!?]) ", text))
        return self.draw.choice(
            [
                f'<div class="content"><p>{text}</p></div>',
                " ".join(words).replace(" and ", " &amp; ") + "<br/>",
                f'<!-- start --><span style="color:red">{text}</span><script>var a=1;</script>',
                f"<ul><li>{items}</li></ul>",
            ]
        )

    def gibberish(self, text: str) -> str:
        draw, words = self.draw, text.split()
        signs = string.ascii_lowercase + string.digits + "#$%&*@"
        kind = draw.randrange(4)
        if kind == 0:
            return " ".join("".join(draw.choices(signs, k=draw.randint(3, 11))) for _ in range(50))
        if kind == 1:
            return " ".join(words[: draw.randint(3, 8)] * draw.randint(8, 20))
        if kind == 2:
            draw.shuffle(words)
            return " ".join(word[::-1] if draw.random() < 0.6 else word for word in words)
        return " ".join(
            "".join(draw.choices("qwrtpsdfghjklzxcvbnm", k=draw.randint(4, 10))) for _ in range(50)
        )

    def boilerplate(self, text: str) -> str:
        lines = self.draw.sample(FURNITURE, self.draw.randint(1, 3))
        return "\n".join([lines[0], text, *lines[1:]])

    def truncated(self, text: str) -> str:
        left = text[: self.draw.randint(len(text) // 3, 2 * len(text) // 3)].rstrip()
        return left.rstrip('.!?:;\n)"” ')

    def near(self, text: str) -> str:
        sentences, words = re.split(r"(?<=[.!?]) ", text), text.split(" ")
        if len(sentences) > 4:
            sentences.pop(self.draw.randrange(len(sentences)))
        for _ in range(max(1, len(words) // 25)):
            words.insert(self.draw.randrange(len(words)), self.draw.choice(["also", "indeed"]))
        made = [" ".join(sentences), " ".join(words), f"{text} Thank you.", text.replace(",", "")]
        return self.draw.choice([other for other in made if other != text])

    def secret(self) -> tuple[str, str]:
        """(what identifies, a sentence with it)."""
        draw = self.draw
        area, last = draw.randint(201, 989), draw.randint(10, 99)
        card = luhn("4" + "".join(draw.choices(string.digits, k=14)))
        account = "".join(draw.choices(string.digits, k=18))
        street = f"{draw.randint(10, 9999)} {draw.choice(['Oak', 'Maple Hill', 'North River'])}"
        town = draw.choice(["Madison, WI", "Dayton, OH", "Tucson, AZ"])
        forms = [
            ("lucy.pemberton@mail.example.org", "Please write to {}."),
            (f"({area}) 555-01{last}", "Call her on {} today."),
            (f"{area}.555.01{last}", "Her number is {}."),
            (f"9{last}-{last}-{draw.randint(1000, 9999)}", "The patient, SSN {}, asked."),
            (" ".join(card[n : n + 4] for n in range(0, 16, 4)), "The card number {} was charged."),
            (f"198.51.100.{draw.randint(1, 254)}", "The request came from {}."),
            (f"{street} Road, {town} {draw.randint(10000, 99999)}", "She lives at {}."),
            (f"DE{98 - int(account + '131400') % 97:02d}{account}", "Pay into the account {}."),
        ]
        value, sentence = draw.choice(forms)
        return value, sentence.format(value)

    def with_secret(self, text: str) -> str:
        sentences = re.split(r"(?<=[.!?]) ", text)
        sentences.insert(self.draw.randint(0, len(sentences) - 1), self.secret()[1])
        return " ".join(sentences)


def luhn(digits: str) -> str:
    """The digits with the one that makes their check sum right."""
    doubled = [int(d) * (1 + (n % 2 == 0)) for n, d in enumerate(reversed(digits))]
    return digits + str(-sum(d - 9 if d > 9 else d for d in doubled) % 10)


def plant(data: Path, seed: int, folder: Path) -> None:
    """Write KIND_dirty.jsonl and KIND_dirty.truth.jsonl of every kind into the folder."""
    used = set(re.findall(r'^\{"id": "([^"]+)"', "".join(_dirty_lines(data)), re.M))
    for kind in KINDS:
        planter = Planter(seed)
        rows = _Rows(planter.draw)
        MAKERS[kind](data, used, planter, rows)
        rows.write(folder / f"{kind}_dirty.jsonl")


class _Rows:
    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._rows = list[tuple[str, Row]]()
        self._copies = list[tuple[str, Row, str]]()

    def add(self, row: Row | str, defect: str = "", **told: Any) -> None:
        line = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
        self._rows.append((line, {"defect": defect, **told} if defect else {}))

    def add_copy(self, row: Row, defect: str, of: Row) -> None:
        self.add(of)
        line = json.dumps(row, ensure_ascii=False)
        self._copies.append((line, {"defect": defect}, json.dumps(of, ensure_ascii=False)))

    def write(self, file: Path) -> None:
        self._draw.shuffle(self._rows)
        for line, told, of in self._copies:
            first = next(n for n, (own, _) in enumerate(self._rows) if own == of)
            self._rows.insert(self._draw.randint(first + 1, len(self._rows)), (line, told))
        file.write_text("".join(f"{line}\n" for line, _ in self._rows), "utf-8")
        told = [{"line": n, **t} for n, (_, t) in enumerate(self._rows, 1) if t]
        truth = file.with_suffix(".truth.jsonl")
        truth.write_text("".join(json.dumps(entry) + "\n" for entry in told), "utf-8")


def _dirty_lines(data: Path) -> Iterator[str]:
    for kind in KINDS:
        yield (data / "dirty" / f"{kind}_dirty.jsonl").read_text("utf-8")


def _pool(
    data: Path, names: list[str], used: set[str], draw: random.Random, text_of: Callable[[Row], str]
) -> list[Row]:
    """Rows of the files without markup, contact data or odd letters, one of a group."""
    doubtful = re.compile(r"[<>@]|\d{3}[-.]\d{3,4}|&\w+;|https?:")
    rows = [row for name in names for row in _read(data / name)]
    draw.shuffle(rows)
    first = {row.get("group", row["id"]): row for row in reversed(rows)}
    good = [r for r in rows if first[r.get("group", r["id"])] is r and r["id"] not in used]
    return [row for row in good if not doubtful.search(text_of(row))]


def _read(path: Path) -> list[Row]:
    # Not splitlines: it also breaks at characters that JSON leaves as they are.
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def _exams(data: Path, draw: random.Random) -> Iterator[tuple[str, Row]]:
    names = ("science/mc_arc.jsonl", "medical/mc_mmlu.jsonl")
    found = [(name, row) for name in names for row in _read(data / name)]
    draw.shuffle(found)
    yield from found


def _cut(draw: random.Random, row: Row) -> str:
    line = json.dumps(row, ensure_ascii=False)
    return line[: draw.randint(len(line) // 3, len(line) - 5)]


def _instructions(data: Path, used: set[str], planter: Planter, rows: _Rows) -> None:
    draw = planter.draw
    names = [*(f"{d}/qa.jsonl" for d in DOMAINS), "general/instructions.jsonl"]

    def said(row: Row) -> str:
        return str(row["messages"][-1]["content"])

    def other(row: Row, answer: str) -> Row:
        turn = {"role": "assistant", "content": answer}
        return {**row, "messages": [*row["messages"][:-1], turn]}

    pool = _pool(data, names, used, draw, lambda r: " ".join(m["content"] for m in r["messages"]))
    long = [r for r in pool if 200 < len(said(r)) < 2500 and said(r).rstrip()[-1:] in ".!?"]
    chosen = {row["id"] for row in long}
    for row in [*long[-200:], *[r for r in pool if r["id"] not in chosen][:400]]:
        rows.add(row)
    clean, exams = iter(long[:-200]), _exams(data, draw)
    for n in range(40):
        for defect, change in (
            ("mojibake", planter.mojibake),
            ("html", planter.html),
            ("gibberish", planter.gibberish),
            ("truncated_answer", planter.truncated),
            ("pii", planter.with_secret),
        ):
            row = next(clean)
            rows.add(other(row, change(said(row))), defect)
        row = next(clean)
        rows.add_copy({**row, "id": row["id"] + "-x"}, "exact_duplicate", row)
        row = next(clean)
        copied = {**other(row, planter.near(said(row))), "id": row["id"] + "-n"}
        rows.add_copy(copied, "near_duplicate", row)
        rows.add(other(next(clean), draw.choice(["", " ", "\n\n", "\u00a0"])), "empty_answer")
        rows.add(_cut(draw, next(clean)), "truncated_json")
        asked, sentences = draw.choice(list(FOREIGN.values()))
        told = draw.sample(sentences.split("|"), 3)
        turns = [
            {"role": "user", "content": f"{asked} {told[0]}"},
            {"role": "assistant", "content": " ".join(told[1:])},
        ]
        rows.add({"id": f"foreign{n}", "messages": turns}, "wrong_language")
        name, exam = next(exams)
        options = "; ".join(f"({x}) {c}" for x, c in zip("abcdefgh", exam["choices"], strict=False))
        turns = [
            {"role": "user", "content": f"Question: {exam['question']}\nOptions: {options}"},
            {"role": "assistant", "content": f"It is {exam['choices'][exam['answer']]}"},
        ]
        rows.add({"id": f"leak{n}", "messages": turns}, "eval_leakage", eval_file=name)


def _choices(data: Path, used: set[str], planter: Planter, rows: _Rows) -> None:
    draw = planter.draw
    names = [f"{d}/mc_mmlu.jsonl" for d in DOMAINS] + ["medical/mc_pubmedqa.jsonl"]
    pool = _pool(data, names, used, draw, lambda r: r["question"] + " ".join(r["choices"]))
    pool = [row for row in pool if len(row["question"]) > 60]
    for row in pool[-350:]:
        rows.add(row)
    clean = iter(pool[:-350])
    for n in range(30):
        for defect, change in (
            ("mojibake", planter.mojibake),
            ("html", planter.html),
            ("gibberish", planter.gibberish),
            ("pii", planter.with_secret),
            ("empty_question", lambda text: draw.choice(["", " ", "\n"])),
        ):
            row = next(clean)
            rows.add({**row, "question": change(row["question"])}, defect)
        row = next(clean)
        rows.add_copy({**row, "id": row["id"] + "-x"}, "exact_duplicate", row)
        row = next(clean)
        wrong = (row["answer"] + 1) % len(row["choices"])
        copied = {**row, "id": row["id"] + "-c", "answer": wrong}
        rows.add_copy(copied, "conflicting_duplicate", row)
        row = next(clean)
        rows.add({**row, "answer": len(row["choices"]) + n % 4}, "answer_out_of_range")
        row = next(clean)
        twice = [*row["choices"][:-1], row["choices"][0]]
        rows.add({**row, "choices": twice, "answer": 0}, "duplicate_choices")
        rows.add(_cut(draw, next(clean)), "truncated_json")


def _texts(data: Path, used: set[str], planter: Planter, rows: _Rows) -> None:
    draw = planter.draw
    names = [f"{d}/text.jsonl" for d in (*DOMAINS, "general")]
    pool = _pool(data, names, used, draw, lambda r: r["text"][:2000])
    for row in pool:
        row["text"] = row["text"][: draw.randint(900, 2000)].rsplit(".", 1)[0] + "."
    for row in pool[-200:]:
        rows.add(row)
    clean, exams = iter(pool[:-200]), _exams(data, draw)
    for n in range(25):
        for defect, change in (
            ("boilerplate", planter.boilerplate),
            ("mojibake", planter.mojibake),
            ("html", planter.html),
            ("gibberish", planter.gibberish),
            ("pii", planter.with_secret),
            ("empty_text", lambda text: draw.choice(["", " ", "\n"])),
        ):
            row = next(clean)
            rows.add({**row, "text": change(row["text"])}, defect)
        row = next(clean)
        copied = {**row, "id": row["id"] + "-n", "text": planter.near(row["text"])}
        rows.add_copy(copied, "near_duplicate", row)
        told = " ".join(draw.sample(draw.choice(list(FOREIGN.values()))[1].split("|"), 4))
        rows.add({"id": f"foreign{n}", "text": told}, "wrong_language")
        name, exam = next(exams)
        row = next(clean)
        leak = f"{exam['question']} The answer is {exam['choices'][exam['answer']]}."
        sentences = re.split(r"(?<=[.!?]) ", row["text"])
        sentences.insert(len(sentences) // 2, leak)
        rows.add({**row, "text": " ".join(sentences)}, "eval_leakage", eval_file=name)


def _preferences(data: Path, used: set[str], planter: Planter, rows: _Rows) -> None:
    draw = planter.draw
    pool = _pool(data, ["safety/preferences.jsonl"], used, draw, lambda r: json.dumps(r))
    pool = [row for row in pool if len(row["chosen"]) > 50 and len(row["rejected"]) > 30]
    for row in pool[-60:]:
        rows.add(row)
    clean = iter(pool[:-60])
    for _ in range(10):
        for defect, change in (
            ("mojibake", planter.mojibake),
            ("html", planter.html),
            ("gibberish", planter.gibberish),
            ("pii", planter.with_secret),
            ("empty_answer", lambda text: draw.choice(["", " "])),
        ):
            row = next(clean)
            rows.add({**row, "chosen": change(row["chosen"])}, defect)
        row = next(clean)
        rows.add({**row, "rejected": row["chosen"]}, "identical_pair")
        row = next(clean)
        turned = {"chosen": row["rejected"], "rejected": row["chosen"]}
        rows.add_copy({**row, **turned, "id": row["id"] + "-c"}, "conflicting_duplicate", row)
        row = next(clean)
        rows.add_copy({**row, "id": row["id"] + "-x"}, "exact_duplicate", row)


MAKERS: dict[str, Callable[[Path, set[str], Planter, _Rows], None]] = {
    "instructions": _instructions,
    "choices": _choices,
    "text": _texts,
    "preferences": _preferences,
}
