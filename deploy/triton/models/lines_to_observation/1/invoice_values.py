"""What is written on an invoice, read: keys become labels, values get a type and a parsed form.

Owns: the written forms of dates, amounts, quantities and units that are recognised.
Does not know: where on the page anything stands.

What can be read in two ways is left as text: 03/04/2026 is no date here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

#: Keys that OCR often reads without their spaces or their colon.
_KNOWN_KEYS = (
    "Account No", "Account Number", "Amount Due", "Balance Due", "Bill To", "Customer",
    "Customer ID", "Customer No", "Customer Number", "Date", "Date of Issue", "Delivery Date",
    "Discount", "Due Date", "Grand Total", "Invoice Date", "Invoice No", "Invoice Number",
    "Issue Date", "Net Total", "Order Date", "Order No", "Order Number", "Pay By", "Payment Terms",
    "PO Number", "Reference", "Ship To", "Shipping", "Subtotal", "Tax", "Terms",
    "Total", "Total Due", "VAT", "VAT ID",
)  # fmt: skip
#: Words that head a column of an invoice's items.
_HEADERS = (
    "#", "Amount", "Article", "Description", "Discount", "Item", "Line Total", "Net", "No", "Pos",
    "Price", "Product", "Qty", "Quantity", "Rate", "Service", "SKU", "Sum", "Tax", "Total", "Unit",
    "Unit Price", "VAT",
)  # fmt: skip
#: A key with one of these words in it names a thing; digits after it are not an amount.
_IDENTIFYING = {
    "account", "bic", "code", "fax", "iban", "id", "mobile", "no", "nr", "number", "phone", "po",
    "ref", "reference", "tel", "zip",
}  # fmt: skip
_CURRENCIES = {
    "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HUF", "INR", "JPY", "KRW",
    "MXN", "NOK", "NZD", "PLN", "SEK", "SGD", "TRY", "USD", "ZAR",
}  # fmt: skip
_SIGNS = {"€": "EUR", "£": "GBP", "¥": "JPY", "$": "$"}
_UNITS = {
    "cm", "day", "days", "g", "h", "hour", "hours", "hr", "hrs", "kg", "km", "l", "lb", "lbs", "m",
    "m2", "m3", "mg", "min", "mm", "ml", "month", "months", "oz", "pc", "pcs", "piece", "pieces",
    "sheets", "t", "unit", "units",
}  # fmt: skip
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip

_KEY_CHARS_MAX = 40
_KEY_WORDS_MAX = 5
_RATE = re.compile(r"\(?\s*\d+(?:[.,]\d+)?\s*%\s*\)?")
_WORDS = re.compile(r"[^\W\d_]+|\d+")
_HUMPS = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")
_SEPARATOR = re.compile(r"(?<!\d)[:：](?!//)|[:：](?!\d|//)")
_ISO_DATE = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})")
_NUMERIC_DATE = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})")
_DAY_FIRST_DATE = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?[\s.-]*([a-z]{3,9})[\s.,-]*(\d{4})", re.I)
_MONTH_FIRST_DATE = re.compile(r"([a-z]{3,9})[\s.]*(\d{1,2})(?:st|nd|rd|th)?[\s,]+(\d{4})", re.I)
_CODE = re.compile(r"\S*\d\S*")
_IN_BRACKETS = re.compile(r"\([^)]*\)")
_AMOUNT = re.compile(
    r"(?P<before>[€£¥$]|[A-Z]{3}(?![a-z]))?\s*(?P<number>[-−]?\d(?:[\d.,'’ ]*\d)?)\s*"
    r"(?P<after>[€£¥$%]|[A-Za-z]+[23]?)?"
)


@dataclass(frozen=True)
class Value:
    """A parsed value: ``type`` and ``data`` as an observation's entity has them."""

    type: str
    data: Mapping[str, str | int | float]


def split_pair(text: str) -> tuple[str, str] | None:
    """Key and value of ``Key: value``; the value is empty where only the key is there.

    A known key is found without its colon too.
    """
    for found in _SEPARATOR.finditer(text):
        key, value = text[: found.start()].strip(), text[found.end() :].strip()
        return (key, value) if _is_key(key) else None
    squashed = _squash(text)
    for key in sorted(_KNOWN_KEYS, key=len, reverse=True):
        if not squashed.startswith(_squash(key)):
            continue
        match = re.match(r"[\s.]*".join(re.escape(letter) for letter in _squash(key)), text, re.I)
        if match is None:
            continue
        rest = text[match.end() :]
        rate = _RATE.match(rest.lstrip())
        if rate is not None:
            rest = rest.lstrip()[rate.end() :]
        value = rest.lstrip(" .;:")
        # Without a colon only what is no prose will do: "Total amounts are net" is none.
        if value == "" or _CODE.fullmatch(value) or parse_value(value).type != "STRING":
            return text[: len(text) - len(rest)].strip(), value
        return None
    return None


def label(key: str) -> str:
    """A key as a label in camel case: ``Invoice No.`` and ``InvoiceNo`` are ``invoiceNo``.

    A rate is no part of it: ``VAT 19%`` is ``vat``.
    """
    bare = _RATE.sub(" ", key)
    known = _known(bare, (*_KNOWN_KEYS, *_HEADERS))
    words = [word.lower() for word in _words(known or bare)]
    if not words:
        return "number" if "#" in key else "value"
    return words[0] + "".join(word.capitalize() for word in words[1:])


def is_header(text: str) -> bool:
    """Whether a text heads a column of items: ``Qty.``, ``Amount (EUR)``."""
    words = _words(_IN_BRACKETS.sub(" ", text))
    bare = " ".join(word for word in words if word not in _CURRENCIES)
    return _known(bare or text, _HEADERS) is not None


def is_sum(text: str) -> bool:
    """Whether a text begins what stands below a table: a total, a tax, a discount."""
    pair = split_pair(text)
    if pair is None:
        return False
    words = {word.lower() for word in _words(_known(pair[0], _KNOWN_KEYS) or pair[0])}
    return bool(words & {"total", "subtotal", "vat", "tax", "discount", "due", "shipping"})


def value_of(key: str, text: str) -> Value:
    """The parsed value under a key: an identifying key's is text, whatever its digits."""
    words = {word.lower() for word in _words(_known(key, _KNOWN_KEYS) or key)}
    if words & _IDENTIFYING:
        return Value("STRING", {"textValue": text})
    return parse_value(text)


def parse_value(text: str) -> Value:
    """A value by its form alone. DATE, NUMBER, QUANTITY, PERCENTAGE and UNIT, else STRING."""
    text = text.strip()
    if (day := _date(text)) is not None:
        return Value("DATE", {"dateValue": day.isoformat()})
    if text.lower() in _UNITS:
        return Value("UNIT", {"unitValue": text})
    return _amount(text) or Value("STRING", {"textValue": text})


def _amount(text: str) -> Value | None:
    """A number, alone or with a currency before or after it, or a percent sign or unit after it."""
    match = _AMOUNT.fullmatch(text)
    number = None if match is None else _number(match["number"])
    if match is None or number is None:
        return None
    before, after = match["before"], match["after"]
    currency = _currency(before or after)
    if before and (after or not currency):
        return None
    if currency:
        return Value("NUMBER", {"numberValue": float(number), "unitValue": currency})
    if after == "%":
        return Value("PERCENTAGE", {"numberValue": float(number)})
    if after and after.lower() not in _UNITS:
        return None
    unit = {"unitValue": after} if after else {}
    if isinstance(number, int):
        return Value("QUANTITY", {"quantityValue": number, **unit})
    return Value("NUMBER", {"numberValue": number, **unit})


def _is_key(text: str) -> bool:
    words = _WORDS.findall(text)
    return (
        len(text) <= _KEY_CHARS_MAX
        and 0 < len(words) <= _KEY_WORDS_MAX
        and any(not word.isdigit() for word in words)
    )


def _squash(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum() or letter == "#")


def _known(text: str, names: tuple[str, ...]) -> str | None:
    squashed = _squash(text)
    return next((name for name in names if _squash(name) == squashed), None)


def _words(text: str) -> list[str]:
    """``P.O. Number`` is two words, ``InvoiceNo`` too."""
    joined = re.sub(r"\b([^\W\d_])\.\s?(?=[^\W\d_]\b)", r"\1", text)
    return _WORDS.findall(_HUMPS.sub(" ", joined))


def _date(text: str) -> date | None:
    if match := _ISO_DATE.fullmatch(text):
        return _day(match[1], match[3], match[4])
    if match := _NUMERIC_DATE.fullmatch(text):
        first, second = int(match[1]), int(match[3])
        if match[2] == "." or first > 12 or first == second:
            return _day(match[4], second, first)
        return _day(match[4], first, second) if second > 12 else None
    if match := _DAY_FIRST_DATE.fullmatch(text):
        return _day(match[3], _month(match[2]), match[1])
    if match := _MONTH_FIRST_DATE.fullmatch(text):
        return _day(match[3], _month(match[1]), match[2])
    return None


def _month(name: str) -> int:
    """1 to 12, 0 where it is none. Three letters are enough, and ``Sept``."""
    name = name.lower()
    return next((n for n, month in enumerate(_MONTHS, 1) if month.startswith(name)), 0)


def _day(year: str, month: str | int, day: str | int) -> date | None:
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None  # written like a date, but no day of any calendar


def _currency(text: str | None) -> str | None:
    if text is None:
        return None
    return text if text in _CURRENCIES else _SIGNS.get(text)


def _number(text: str) -> int | float | None:
    """1,234.50 and 1.234,50 and 1'234.50 and 1 234,50; ``None`` where it is no such form."""
    digits = text.replace("−", "-").replace("’", "'")
    negative = digits.startswith("-")
    digits = digits.lstrip("-")
    mark = _decimal_mark(digits)
    whole, _, fraction = digits.partition(mark) if mark else (digits, "", "")
    groups = re.split(r"[.,' ]", whole)
    if any(len(group) != 3 for group in groups[1:]) or not 1 <= len(groups[0]) <= 15:
        return None
    if len(groups) > 1 and len(groups[0]) > 3:
        return None
    joined = "".join(groups)
    if not fraction and (len(joined) > 15 or (len(joined) > 1 and joined.startswith("0"))):
        return None  # an identifier, whatever it looks like
    number: int | float = float(f"{joined}.{fraction}") if fraction else int(joined)
    return -number if negative else number


def _decimal_mark(digits: str) -> str:
    """The character before the fraction, or nothing: the last one of two kinds, or one that
    stands once and is no separator of thousands. A lone point is a decimal one."""
    marks = [letter for letter in digits if letter in ".,"]
    if not marks or marks.count(marks[-1]) > 1:
        return ""
    last = marks[-1]
    if len(set(marks)) == 2 or last == ".":
        return last
    return "" if len(digits) - digits.index(last) - 1 == 3 else last
