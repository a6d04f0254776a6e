"""Which language is a text in? Offline: the script its letters are of, then its small words.

    score(language) = share of the text's words that are among the language's function words

Function words are a third to a half of running text and differ between languages, which
makes twenty words enough (Grefenstette 1995, "Comparing two language identification
schemes"). Letters that few languages have count as half a function word each.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from functools import partial

from domainwright.curate._remembered import Remembered

_FUNCTION_WORDS = {
    "en": "a i the of and to in is that for it as with was on are be this by or not from at have an"
    " which but they you he she his her their its we our has had were been will would can may"
    " what who how when why do does did if there than i my your me should could about into"
    " no yes need more most only other some such these those them him us up out"
    " all any each because during after before while where then also very just many much",
    "de": "der die das und ist in den von zu mit dem des ein eine nicht auf für im sich als auch"
    " an er es sie war wird bei einer um am sind noch wie einem über einen so zum kann nach aus"
    " durch hat werden oder wurde ich man was welche wann warum wer zur vom bis eines dass",
    "fr": "le la les de des du et est un une en que qui dans pour pas sur au aux par plus ce se"
    " ne avec sont il elle on je vous nous ou mais cette ces leur son sa ses être à été dont"
    " quels quelle comment pourquoi où qu il l d c n s j",
    "es": "el la los las de del y es en que un una por con no se para su al lo como más pero sus"
    " le ya o este sí porque esta son entre cuando muy sin sobre también me hasta hay donde qué"
    " cómo cuál cuáles ser fue han unos puede él",
    "it": "il lo la i gli le di del della dei delle e è un una in che non per con si da sono al"
    " alla come più ma anche nel nella o su dal dalla ha questo questa cosa quali perché essere"
    " uno ed se ai l un d dell nell dall sull all",
    "pt": "o a os as de do da dos das e é em no na que um uma não para com se por mais como mas"
    " ao ou à pelo pela seu sua são ser quando muito nos já também só foi qual quais porque pode"
    " nas aos este esta isso",
    "nl": "de het een en van in is dat op te met voor zijn niet aan er om ook als dan bij die maar"
    " uit door over ze zich hij nog naar wordt worden wat hoe waarom wie kan of tot deze dit wel"
    " werd u je ik tegen na geen",
    "sv": "och att det i en är som på för med av den till inte om ett han de var har jag från vid"
    " så men eller man sin kan när hur vad efter också bli blir ska vi du detta denna mycket",
    "da": "og at det i en er som på for med af den til ikke om et han de var har jeg fra ved så"
    " men eller man sin kan når hvordan hvad efter også blive bliver skal vi du dette denne meget",
    "no": "og at det i en er som på for med av den til ikke om et han de var har jeg fra ved så"
    " men eller man sin kan når hvordan hva etter også bli blir skal vi du dette denne mye ble",
    "pl": "i w na z się do jest nie to że jak o co za po dla od ale ich przez są oraz tym lub być"
    " może który która które jego jej tego ten ta czy gdy tak już przy był była można",
    "tr": "ve bir bu da de için ile çok ne gibi olarak daha olan en ama kadar sonra ya her mi ki"
    " değil var o nasıl neden veya olduğu olur edilir tarafından",
    "fi": "ja on ei se että hän oli mutta ovat kuin myös joka tai niin kun jos ole sen mitä voi"
    " ne sekä miten miksi tämä jotka ovat olla",
    "cs": "a je v na se že s z do o to jako pro ale by jsou od za po při nebo který která které"
    " jeho její byl byla může jak co také není",
    "id": "yang dan di dengan untuk pada adalah dari ini itu dalam tidak ke akan atau oleh juga"
    " sebagai bisa karena apa bagaimana",
}
_LETTERS = {
    "de": "äöüß", "fr": "çœèêëàùûîï", "es": "ñ¿¡áíóú", "it": "àèìòù", "pt": "ãõçâêá",
    "sv": "åäö", "da": "åæø", "no": "åæø", "pl": "łąęśćźżń", "tr": "ığşç", "fi": "äö",
    "cs": "řěůčšž",
}  # fmt: skip
_SCRIPTS = {
    "CYRILLIC": "ru", "GREEK": "el", "ARABIC": "ar", "HEBREW": "he", "DEVANAGARI": "hi",
    "CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "THAI": "th",
    "BENGALI": "bn", "TAMIL": "ta", "GEORGIAN": "ka", "ARMENIAN": "hy",
}  # fmt: skip
_LANGUAGES_OF: dict[str, list[str]] = {}
for _name, _words in _FUNCTION_WORDS.items():
    for _word in dict.fromkeys(_words.split()):
        _LANGUAGES_OF.setdefault(_word, []).append(_name)
_WORDS_OF = {name: frozenset(listed.split()) for name, listed in _FUNCTION_WORDS.items()}
_SCANDINAVIAN = {"da", "no", "sv"}
_OWN_LETTERS = {
    letter: [name for name, own in _LETTERS.items() if letter in own]
    for letter in set("".join(_LETTERS.values()))
}
# Pieces of "x7#ab" are no words.
_WORD = re.compile(r"(?<![\w#$%&*@])[^\W\d_]+(?![\w#$%&*@])")
_MOST_CHARS = 2_000
_LEAST_WORDS = 4
_LEAST_DIFFERENT = 3
_LEAST_SHARE = 0.12
_MARGIN = 1.3
"""The best language must have this many times the score of the next, or the text is unclear."""


def language(text: str) -> str | None:
    """ISO 639-1 code, or None where the text is too short or too mixed to tell.

    >>> language("Un mutuo è un prestito che la banca concede per l'acquisto di una casa.")
    'it'
    >>> language("Aspirin 100 mg") is None
    True
    """
    text = _shortened(text)
    other = None if text.isascii() else _by_script(text)
    if other is not None:
        return other
    found = _WORD.findall(text)
    if len(found) < _LEAST_WORDS:
        return None
    scores, different = defaultdict[str, float](float), Counter[str]()
    for word, count in Counter(found).items():
        for name in _LANGUAGES_OF.get(word, ()):
            scores[name] += count
            # One letter alone is a word in many languages, and stands in any noise.
            different[name] += len(word) > 1
    if not text.isascii():
        for letter in text:
            for name in _OWN_LETTERS.get(letter, ()):
                scores[name] += 0.5
    ranked = sorted(
        (-score / len(found), name)
        for name, score in scores.items()
        if different[name] >= _LEAST_DIFFERENT
    )
    if not ranked or -ranked[0][0] < _LEAST_SHARE:
        return None
    best, second = ranked[0], ranked[1] if len(ranked) > 1 else (0.0, "")
    # Danish and Norwegian share their function words; for a filter they are one.
    near = {best[1], second[1]} <= _SCANDINAVIAN
    return best[1] if near or best[0] <= _MARGIN * second[0] else None


def share_of(text: str, name: str) -> float:
    """Share of the text's words that are function words of the language; 0 without words.

    A language that is told by its script has no list of words here: 1 where the script fits.
    """
    text = _shortened(text)
    if name not in _FUNCTION_WORDS:
        return float(_by_script(text) == name)
    own, words = divmod(sum(map(_COUNTED[name].__getitem__, text.split())), _OWN)
    return own / words if words else 0.0


def function_words(name: str | None) -> frozenset[str]:
    """Of a language that is told by them."""
    return _WORDS_OF.get(name or "", frozenset())


def _counted(name: str, token: str) -> int:
    """`_OWN` times the language's function words in what stands between two spaces, plus words."""
    found = _WORD.findall(token)
    return _OWN * sum(map(_WORDS_OF[name].__contains__, found)) + len(found)


_OWN = 1 << 32
_COUNTED = {name: Remembered(partial(_counted, name)) for name in _FUNCTION_WORDS}


def _shortened(text: str) -> str:
    text = text[:_MOST_CHARS].lower()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _by_script(text: str) -> str | None:
    """The language of another script, if half of the letters are of it."""
    letters = [char for char in text[:400] if char.isalpha()]
    if not letters or sum(char > "\u036f" for char in letters) < 0.5 * len(letters):
        return None
    seen = Counter(
        _SCRIPTS.get(unicodedata.name(char, "?").split(" ")[0].split("-")[0]) for char in letters
    )
    # Japanese is written in signs that Chinese has too, and in its own.
    if seen.get("ja"):
        return "ja"
    return seen.most_common(1)[0][0]
