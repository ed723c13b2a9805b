"""Numbers as people write them: the grammar case by case, what it refuses, and laws."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_probe.evaluation.numbers import answer_number, is_number, last_number, numbers, parse_number

HALF = Fraction(1, 2)
THIN, NO_BREAK = "\u202f", "\u00a0"

READ = [
    # signs and currencies
    *[
        ("-$5", -5),
        ("$-5", -5),
        ("−$5", -5),
        ("-€5", -5),
        ("€5", 5),
        ("5€", 5),
        ("5 USD", 5),
        ("USD 5", 5),
        ("US$5", 5),
    ],
    *[("($5)", 5), ("Rs.500", 500), ("Rs. 500", 500), ("\\$5", 5), ("+5", 5), ("-0", 0), ("(−3)", -3), ("**5**", 5)],
    *[("＄５", 5), ("－5", -5), ("–5", -5), ("x = -5", -5), ("x = - 5", -5), ("7 - 5", 5), ("5 -3", -3), ("3+4", 4)],
    # points, commas, fractions, powers
    *[
        (".5", HALF),
        ("-.5", -HALF),
        ("$.50", HALF),
        ("5.", 5),
        ("0,5", HALF),
        ("3.14", Fraction(314, 100)),
        ("so...5", 5),
    ],
    *[
        ("3/4", Fraction(3, 4)),
        ("3 / 4", Fraction(3, 4)),
        ("3/ 4", Fraction(3, 4)),
        ("1 1/2", 3 * HALF),
        ("-1 1/2", -3 * HALF),
        ("½", HALF),
    ],
    *[("2½", 5 * HALF), ("2 ½", 5 * HALF), ("3⁄4", Fraction(3, 4)), ("\\frac{3}{4}", Fraction(3, 4)), ("-½", -HALF)],
    *[("1e9", 10**9), ("1.5E-3", Fraction(3, 2000)), ("3 x 10^4", 30000), ("3×10⁴", 30000), ("10^6", 10**6)],
    *[("3 \\times 10^{4}", 30000), ("10⁻²", Fraction(1, 100)), ("6.02e+23", 602 * 10**21)],
    # grouping and scripts
    *[("1,234,567", 1234567), ("1 234 567", 1234567), (f"1{THIN}234{NO_BREAK}567", 1234567), ("1.234.567", 1234567)],
    *[
        ("1.234.567,89", Fraction(123456789, 100)),
        ("1,234.5", Fraction(12345, 10)),
        ("1'234", 1234),
        ("1’234.5", 1234.5),
    ],
    *[
        ("12,34,567", 1234567),
        ("1,23,456.5", 123456.5),
        ("1_000", 1000),
        ("1,234", 1234),
        ("1.234", Fraction(1234, 1000)),
    ],
    *[("0,123", Fraction(123, 1000)), ("1234,5", 1234.5), ("1 234,5", 1234.5), ("१२३", 123), ("１２３", 123)],
    *[("٣٫١٤", Fraction(314, 100)), ("١٬٢٣٤", 1234), ("答案是42。", 42), ("答案是42个", 42)],
    # units and scale words
    *[("50%", 50), ("50 %", 50), ("5％", 5), ("5 million", 5 * 10**6), ("$5 million", 5 * 10**6), ("5万", 50000)],
    *[("5千克", 5), ("60mph", 60), ("the 3rd", 3), ("18 cm^2", 18), ("5°C", 5), ("5/day", 5), ("5-year", 5)],
    # LaTeX
    *[
        ("1{,}234", 1234),
        ("\\boxed{1{,}234}", 1234),
        ("1,\\!234", 1234),
        ("1\\,234\\,567", 1234567),
        ("3{,}5", 7 * HALF),
    ],
    *[("2\\frac{1}{2}", 5 * HALF), ("-2\\frac12", -5 * HALF), ("2 \\frac{1}{2}", 5 * HALF), ("\\frac{-3}{4}", -0.75)],
    *[("\\sqrt{16} = 4", 4), ("5\\,\\text{cm}", 5)],
    # words for signs and scales, names of currencies, marks of direction, counters
    *[("negative 5", -5), ("It is minus $5.", -5), ("10 minus 5", 5), ("-S$5", -5), ("-XY$5", -5), ("USD$5", 5)],
    *[("EUR5", 5), ("-USD5", -5), ("Rs500", 500), ("-\u200e5", -5), ("\u200e-\u200f\u0665", -5), ("1´000", 1000)],
    *[
        ("5만원", 50000),
        ("3억", 3 * 10**8),
        ("5개", 5),
        ("5 millones", 5 * 10**6),
        ("5 लाख", 500000),
        ("5 करोड़", 5 * 10**7),
    ],
    *[("10 ** 3", 1000), ("1.5 * 10 ** 3", 1500), ("5 **6**", 6)],
    # several
    *[
        ("14-16", 16),
        ("48/2=24", 24),
        ("(3+4)-5", 5),
        ("10 20", 20),
        ("5 10 200", 200),
        ("2020 300", 300),
        ("1 2 3", 3),
    ],
    *[("2 500ml", 500), ("$5-$10", 10), ("5, 6", 6), ('{"a":5}', 5), ("['1','2']", 2), ("try 5", 5)],
]
REFUSED = [
    *["1,23,4", "1.2.3", "192.168.1.1", "192.168.100.100", "12:30", "3:4", "2024-01-05", "1/2/2024", "05.01.2024"],
    *["2^10", "5²", "2√3", "√2", "0x1F", "5k", "5K", "2x", "1/0", "±5", "--5", "-$-5", "No.5", "0.333..."],
    *["1e3.5", "1e99999999999", "1,2345,6789", "5'10", "18h30", "1億2000万", "1,2,3", "\\frac{x}{2}", "5cm2"],
    *["\\sqrt{3}", "5\\sqrt{2}", "\\frac{\\sqrt{3}}{2}", "5\\pi", "2\\frac{x}{3}", "0xFF", "5 bn", "2 ** 10", "2 ^ 10"],
]
NOT_LOOKED_AT = ["A5", "H2O", "COVID-19", "x^2", "x_1", "GPT-4", "nothing", "", "x5y"]


@pytest.mark.parametrize(("text", "value"), READ)
def test_numbers_are_read(text, value):
    assert last_number(text) == value


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_number_is_refused_whole(text):
    assert last_number(text) is None
    assert not is_number(text)
    # No other number is taken in its place.
    assert last_number(f"7 and {text}") is None


@pytest.mark.parametrize("text", NOT_LOOKED_AT)
def test_digits_in_words_are_not_looked_at(text):
    assert last_number(text) is None
    assert last_number(f"7 and {text}") == 7


@pytest.mark.parametrize(
    ("text", "marker", "value"),
    [
        ("#### 18 dollars per 2 days", "####", 18),
        ("1 #### 2 #### 3 or 4", "####", 3),
        ("#### - 5", "####", -5),
        ("####-$5", "####", -5),
        ("#### - $5", "####", -5),
        ("####.5", "####", HALF),
        ("#### 12:30 or 5", "####", None),
        ("5 ####", "####", None),
        ("5, then 6", "####", 6),
        ("Total: $-5", "Total: $", -5),
        ("Total: -$5", "Total: $", -5),
    ],
)
def test_the_first_number_behind_the_last_marker(text, marker, value):
    assert last_number(text, marker) == value


def test_bare_numbers():
    for text in ("$5", "-5", "5%", "1/2", "1e3", ".5", "1 234", " 7\n", "5 €", "-$1,234.50"):
        assert is_number(text), text
    for text in ("5.", "- 5", "5 apples", "60mph", "(5)", "12:30", "3 4", "A5", "", "5 or 6"):
        assert not is_number(text), text


def test_units_are_compared_where_both_name_one():
    def same(one, other):
        return answer_number(one).same_as(answer_number(other))

    assert same("$5", "5")
    assert same("5%", "5")
    assert same("$5", "5 USD")
    assert same("5 percent", "5%")
    assert not same("$5", "€5")
    assert not same("$5", "5%")
    assert not same("50%", "0.5")


INTEGERS = st.integers(min_value=-(10**30), max_value=10**30)


@given(INTEGERS, st.integers(min_value=-3, max_value=3))
def test_integers_are_equal_to_themselves_alone(n, more):
    for form in (str, "{:,}".format):
        assert answer_number(form(n)).same_as(answer_number(str(n + more))) is (more == 0)


def grouped_in_india(n):
    digits = str(n)
    head, tail = digits[:-3], digits[-3:]
    pairs = [head[max(0, end - 2) : end] for end in range(len(head), 0, -2)][::-1]
    return ",".join([*pairs, tail])


@given(st.integers(min_value=10**6, max_value=10**24))
def test_every_way_to_group_is_read_back(n):
    plain = f"{n:,}"
    for mark in (",", "'", "’", "_", " ", NO_BREAK, THIN, "\u2009"):
        assert last_number(plain.replace(",", mark)) == n
    assert last_number(grouped_in_india(n)) == n
    assert last_number(plain.replace(",", ".") + ",25") == n + Fraction(1, 4)
    assert last_number("".join(chr(ord(digit) - ord("0") + 0x0966) for digit in str(n))) == n
    if n < 10**9 or n >= 10**12:  # four groups may be an address
        assert last_number(plain.replace(",", ".")) == n


@given(st.decimals(allow_nan=False, allow_infinity=False, places=5, min_value=-(10**12), max_value=10**12))
def test_decimals_are_read_back_exactly(value):
    for text in (f"{value:f}", f"{value:e}", f"{value:f}".replace("-", "−"), f"so {value:f}.", f"{value:f}%"):
        assert last_number(text) == Fraction(value)
    assert last_number(f"${value:f}") == Fraction(value)


@given(st.fractions(max_denominator=1000))
def test_fractions_are_read_back_exactly(value):
    assert last_number(f"{value.numerator}/{value.denominator}") == value


@given(st.text(alphabet="0123456789.,'_ -+$%/e:x^½", max_size=25))
def test_any_text_is_read_and_each_character_once(text):
    found = list(numbers(text))
    assert all(a.end <= b.start for a, b in pairwise(found))
    for number in found:
        assert number.value is None or isinstance(number.value, Fraction | int)
    whole = parse_number(text)
    assert whole is None or whole.value == last_number(text.strip())


def test_numbers_of_any_length_compare_exactly():
    digits = "9" * 20_000
    assert last_number(digits) == 10**20_000 - 1
    assert not answer_number(digits).same_as(answer_number("8" + digits[1:]))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-(5)", -5),
        ("x = -(3/4)", Fraction(-3, 4)),
        ("−($5)", -5),
        ("-|5|", -5),
        ("-\\boxed{5}", -5),
        ("-**5**", -5),
        ("-(-5)", 5),
        ("3-(5)", 5),
        ("x-(5)", 5),
        ("- **5**", 5),
        ("-(5+3)", 3),
    ],
)
def test_a_minus_before_brackets_is_the_sign_of_the_one_number_in_them(text, value):
    assert last_number(text) == value
