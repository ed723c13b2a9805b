"""What a text says: operators, vowel signs and single letters count, case, punctuation and wrapping do not."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_probe.evaluation.content import means_the_same, occurrences, says, words

SAID = [
    *[("A-", "A-"), ("The answer is C.", "C"), ("C++", "C++"), ("It is C++.", "C++"), ("**C++**", "C++")],
    *[
        ("C++/Java", "C++"),
        ("यह दिन है।", "दिन"),
        ("答案是巴黎。", "巴黎"),
        ("答案是Paris。", "Paris"),
        ("答案是42。", "42"),
    ],
    *[("คำตอบคือปารีส", "ปารีส"), ("x + 1", "x+1"), ("3 + 4 = 7", "7"), ("3+4=7", "7"), ("a < b", "<")],
    *[("x ≤ 5", "x<=5"), ("a->b", "->"), ("(A)", "A"), ("A)", "A"), ("A. Paris", "A"), ("A: Paris", "A")],
    *[("Answer:D", "D"), ("**B**", "B"), ("*A*", "A"), ("the answer is a", "A"), ("A", "a")],
    *[("twenty-one", "twenty one"), ("twenty one", "twenty-one"), ("e-mail", "e mail")],
    *[("well-known", "well known"), ("sky-blue", "blue"), ("Mira's home", "Mira"), ("don't", "don't")],
    *[("don’t", "don't"), ("straße", "STRASSE"), ("ＢＬＵＥ", "blue"), ("cafe\u0301", "café"), ("yes 👍", "👍")],
    *[("❤️", "❤"), ("great :)", ":)"), ("50%", "50"), ("$5", "5"), ("0.5", ".5"), ("1,000", "1000")],
    *[("1,2,3", "2"), ("5", "5."), ("x=5", "5"), ("<blue>", "blue"), ("<<b>blue</b>>", "blue")],
    *[("cos(x)", "cos(x)"), ("COVID-19", "COVID 19"), ("不合格", "合格"), ("not safe", "safe")],
    *[("blue/green", "blue"), ("and/or", "and"), ("_blue_", "blue"), ("`blue`", "blue"), ("~~blue~~", "blue")],
    *[("$x$", "x"), ("\\boxed{5}", "5"), ("BLUE!", "blue"), ("¡azul!", "azul"), ("2 * 3", "2*3"), ("A -", "A")],
    *[("blue - the sky", "blue the sky"), ("- blue", "blue"), ("A−", "A-"), ("A–", "A"), ("no=1", "1")],
    *[("20°C", "20"), ("?", "?"), ("\u1100\u1161\u11a8", "각"), ("a =\u0338 b", "a ≠ b")],
    *[
        ("C/C++", "C++"),
        ("C/C++", "C"),
        ("Na+/K+", "K+"),
        ("A-/B+", "A-"),
        ("x/y", "x / y"),
        ("x // y", "x//y"),
        ("C♯", "C#"),
    ],
    *[("အဖြေမှာရန်ကုန်ဖြစ်သည်", "ရန်ကုန်"), ("နေပြည်တော်သည်", "နေပြည်တော်"), ("سـلام", "سلام"), ("the .NET framework", ".NET")],
    *[
        ("정답은 서울입니다.", "서울"),
        ("서울에서", "서울"),
        ("답은 참입니다", "참"),
        ("정답은 B입니다.", "B"),
        ("답은 5입니다", "5"),
    ],
    *[("Run f(x) now", "f(x)"), ('print("x")', 'print("x")'), ("A / B", "A"), ("isn't", "isn’t"), ("★★☆", "★★☆")],
]
NOT_SAID = [
    *[("∞", "-∞"), ("-∞", "∞"), ("5±1", "5"), ("±5", "5"), ("H⁺", "H"), ("x", "-x"), ("日本", "日本語"), ("כַּי", "כי")],
    *[("A-", "A"), ("A-", "A+"), ("A", "A-"), ("C++", "C"), ("C", "C++"), ("C#", "C"), ("F#", "F")],
    *[
        ("दिन", "दीन"),
        ("दिन", "द"),
        ("答案是42。", "4"),
        ("कि", "क"),
        ("กาน", "ก"),
        ("ビール", "ビル"),
        ("コーヒー", "コーヒ"),
    ],
    *[("人々", "人"), ("x+1", "x-1"), ("x+1", "x"), ("-7", "7"), ("7", "-7"), ("a <= b", "<"), ("x<=5", "x<5")],
    *[("I'd say so", "D"), ("it's", "S"), ("N/A", "A"), ("R&D", "D"), ("e-mail", "E"), ("U.S.", "S")],
    *[("A*", "A"), ("It is a dog", "A"), ("café", "cafe"), ("cafe", "café"), ("x²", "x2"), ("10²", "102")],
    *[("H₂O", "H2O"), ("👍", "👎"), ("👍🏽", "👍"), ("great :(", ":)"), ("-$5", "5"), (".5", "5"), ("1,000kg", "1")],
    *[("12:30", "12"), ("192.168.1.1", "168"), ("1.2.3", "2"), ("007", "7"), ("3.10", "3.1")],
    *[("5 million", "5"), ("<5", "5"), ("-cos(x)", "cos(x)"), ("f'(x)", "f(x)"), ("√2", "2"), ("AB-", "AB")],
    *[("AB+", "AB-"), ("Na+", "Na"), ("snake_case", "snake case"), ("\\boxed{-5}", "5"), ("שָׁלוֹם", "שלום")],
    *[("i++", "i"), ("i--", "i"), ("!x", "x"), ("a*b", "a b"), ("2*3", "2 3"), ("3×4", "3"), ("A+B", "A+")],
    *[("-blue", "blue"), ("¬p", "p"), ("C++", "C+"), ("C+++", "C++"), ("20°C", "20°F"), ("5+", "5")],
    *[("a_1", "a_2"), ("the total (≈5)", "5"), ("Ca2+", "Ca2"), ("?!", "?"), ("...", "."), ("က", "ကြ")],
    *[("ကြ", "က"), ("ន្ត", "ន"), ("가", "각"), ("각", "가"), ("\u1100\u1161\u11a8", "가"), ("\u304b\u3099", "か")],
    *[("≠", "="), ("a =\u0338 b", "a = b"), ("can't", "can"), ("won’t", "won"), ("the net", ".NET"), ("B♭", "B")],
    *[
        ("f(x, y)", "f(x)"),
        ("O(n log n)", "O(n)"),
        ("x // y", "x / y"),
        ("x % y", "x / y"),
        ("★★★★", "★★★"),
        ("★★", "★"),
    ],
    *[("서울대", "서울"), ("참이", "참"), ("답은 -5입니다", "5"), ("x/y+1", "x"), ("N/A", "N")],
    *[
        (
            "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
            "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        )
    ],
]


@pytest.mark.parametrize(("text", "content"), SAID)
def test_said(text, content):
    assert says(text, content)


@pytest.mark.parametrize(("text", "content"), NOT_SAID)
def test_not_said(text, content):
    assert not says(text, content)


@given(st.sampled_from(SAID + NOT_SAID), st.sampled_from(["NFC", "NFD"]), st.sampled_from(["NFC", "NFD"]))
def test_composed_and_decomposed_characters_are_the_same(pair, one, other):
    text, content = unicodedata.normalize(one, pair[0]), unicodedata.normalize(other, pair[1])
    assert says(text, content) is says(*pair)


TEXTS = st.text(min_size=1, max_size=12) | st.text(
    alphabet="aC7.+-#*/ ,'<>=()5e\u0930\u094d\u093fक巴12½²$%", max_size=9
)


@given(TEXTS, st.sampled_from(["NFC", "NFD"]))
def test_every_text_says_itself(text, form):
    if text.strip():
        assert says(text, text)
    if words(text):
        assert says(text, unicodedata.normalize(form, text))
        assert says(unicodedata.normalize(form, text), text)


NAMES = st.sampled_from(["A", "C", "AB", "blue", "x", "7", "-7", ".5", "दिन", "巴黎", "é"])
SIGNS = st.text(alphabet="+#^±√", min_size=1, max_size=3) | st.sampled_from(["-", "++", "--", "²", "\u0301", "\u093f"])


@given(NAMES, SIGNS)
def test_what_has_more_signs_does_not_say_what_has_fewer(name, signs):
    assert not says(name + signs, name)
    assert not says(f"It is {name}{signs}.", name)
    assert not says(name, name + signs)
    assert says(f"It is **{name}{signs}**.", name + signs)
    assert not means_the_same(name, name + signs)


@given(NAMES, NAMES, st.sampled_from(["द", "क", "ก", "ক", "க"]))
def test_no_vowel_sign_is_another(one, other, letter):
    signs = {"द": "िीुूे", "क": "िीुूे", "ก": "ิีึืุู", "ক": "িীুূ", "க": "ிீுூ"}[letter]
    forms = [letter + sign for sign in signs] + [letter]
    assert [[says(a, b) for b in forms] for a in forms] == [[a == b for b in forms] for a in forms]


def test_where_it_is_said():
    assert occurrences("A cat, a CAT and cats", "cat") == [(2, 5), (9, 12)]
    assert occurrences("它是巴黎，巴黎", "巴黎") == [(2, 4), (5, 7)]
    assert occurrences("dog", "cat") == []
