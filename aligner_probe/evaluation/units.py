"""Currencies and scale words, by the names and signs that stand beside numbers."""

import unicodedata

CURRENCIES = {
    "$": "USD",
    "€": "EUR",
    "£": "GBP",
    "¥": "JPY",
    "₹": "INR",
    "₩": "KRW",
    "₽": "RUB",
    "₺": "TRY",
    "₪": "ILS",
}
CURRENCIES |= {"฿": "THB", "₫": "VND", "₴": "UAH", "₦": "NGN", "₱": "PHP", "¢": "cent", "rs": "INR", "rs.": "INR"}
CODES = "USD EUR GBP JPY INR KRW RUB ILS THB VND UAH NGN CHF CNY CAD AUD NZD HKD BRL MXN SEK NOK DKK PLN ZAR"
CODES += " SGD TWD IDR MYR AED EGP PKR BDT LKR CZK HUF ARS CLP"
CURRENCIES |= {code.lower(): code for code in CODES.split()}
CURRENCIES |= {
    "us$": "USD",
    "a$": "AUD",
    "au$": "AUD",
    "c$": "CAD",
    "ca$": "CAD",
    "nz$": "NZD",
    "hk$": "HKD",
    "r$": "BRL",
    "s$": "SGD",
    "nt$": "TWD",
    "mx$": "MXN",
}
SYMBOLS = "".join(sign for sign in CURRENCIES if len(sign) == 1)
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "lakh": 5, "crore": 7}
SCALES |= {"tausend": 3, "millionen": 6, "milliarde": 9, "milliarden": 9, "milliard": 9, "millón": 6, "millones": 6}
SCALES |= {"milhão": 6, "milhões": 6, "milione": 6, "milioni": 6, "miliardi": 9, "тысяч": 3, "тысячи": 3, "млн": 6}
SCALES |= {"миллион": 6, "миллиона": 6, "миллионов": 6, "млрд": 9, "हज़ार": 3, "हजार": 3, "लाख": 5, "करोड़": 7}
SCALES = {unicodedata.normalize("NFC", word): power for word, power in SCALES.items()}
HAN_SCALES = {"百": 2, "千": 3, "万": 4, "萬": 4, "億": 8, "亿": 8, "兆": 12}
HAN_SCALES |= {"백": 2, "천": 3, "만": 4, "억": 8, "조": 12}


def currency_named(name: str) -> str:
    """A currency's code; of a dollar that is not known (`XY$5`), its name."""
    name = name.lower()
    return CURRENCIES.get(name) or CURRENCIES.get(name.rstrip("$")) or name.upper()
