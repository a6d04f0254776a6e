"""Words that may stand for each other: a short list of everyday English, or the user's own.

The list leaves out every word that means something of its own in medicine, law, finance or
science ("lower", "principal", "error"), or that is noun and verb at once.
"""

from pathlib import Path

from domainwright.core.errors import DataError

_SETS = """
begin start; begins starts; began started; often frequently; usually normally typically
quickly rapidly; quick rapid; big large; bigger larger; biggest largest; huge enormous
help assist; helps assists; helped assisted; helping assisting
buy purchase; buys purchases; bought purchased; choose select; chooses selects; chose selected
happen occur; happens occurs; happened occurred; kind sort; kinds sorts; whole entire
maybe perhaps; however nevertheless; therefore hence consequently; moreover furthermore
almost nearly; mostly mainly largely; completely entirely fully; sick ill; doctor physician
doctors physicians; illness sickness; try attempt; tries attempts; tried attempted
finished completed; finishes completes; enough sufficient; extra additional; recently lately
currently presently; previously formerly; sometimes occasionally; rarely seldom
regarding concerning; toward towards; among amongst; speak talk; speaks talks; spoke talked
think believe; thinks believes; assume suppose; assumes supposes; allowed permitted
build construct; builds constructs; built constructed; car automobile; cars automobiles
purpose aim; goal aim; goals aims; technique method; techniques methods; example instance
examples instances; disadvantage drawback; disadvantages drawbacks; difference distinction
differences distinctions; comprehend understand; comprehends understands; explain clarify
explains clarifies; explained clarified; asked inquired; reply respond; replies responds
replied responded; happy glad; show demonstrate; shows demonstrates; showed demonstrated
"""


def built_in() -> dict[str, tuple[str, ...]]:
    """Word -> its synonyms."""
    sets = [part.split() for part in _SETS.replace("\n", ";").split(";") if part.strip()]
    return _table(sets)


def read_synonyms(path: Path | str) -> dict[str, tuple[str, ...]]:
    """A file with one set of synonyms a line: `begin, start, commence`. "#" begins a remark.

    Raises:
        DataError: no such file, no UTF-8, or a line with one word only.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The file of synonyms {path} cannot be read ({type(error).__name__}).",
            "give a UTF-8 text file with lines such as `begin, start`.",
        ) from error
    sets = []
    for number, line in enumerate(lines, 1):
        words = [word.strip().lower() for word in line.partition("#")[0].split(",")]
        words = [word for word in words if word]
        if len(words) == 1:
            raise DataError(
                f"{path}, line {number} has one word: {line.strip()!r}.",
                "write words that may stand for each other, such as `begin, start`.",
            )
        sets.append(words)
    return _table(sets)


def _table(sets: list[list[str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for words in sets:
        for word in words:
            others = [other for other in words if other != word]
            found[word] = tuple(dict.fromkeys([*found.get(word, ()), *others]))
    return found
