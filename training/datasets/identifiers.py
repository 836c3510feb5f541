"""Identifiers: product ids, labels, image ids and names of people, the same from every source.

Two identifiers that look the same are the same: text is normalised to NFC, spaces are unified, and invisible
characters without meaning are removed. Joiners are spelling in Persian, in Indic scripts and in emoji, and are kept.
The module has no heavy imports, since every request with an identifier uses it.
"""

import re
import unicodedata

from training.datasets.files import short

MAX_IDENTIFIER_LENGTH = 200

# No-break and thin spaces look like a space. The ideographic space U+3000 does not.
_SPACES = dict.fromkeys([0x00A0, *range(0x2000, 0x200B), 0x202F, 0x205F], " ")
# Soft hyphen, zero-width space, word joiner, byte order mark, and the marks of direction: invisible, no spelling.
_INVISIBLE = dict.fromkeys([0x00AD, 0x061C, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF], "")
_NORMALISED = str.maketrans({**_SPACES, **_INVISIBLE})
# The Hangul fillers and the blank of Braille are letters and symbols to Unicode, but show nothing.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_BLANK_CATEGORIES = frozenset({"Cf", "Me", "Mn", "Zs"})
_REFUSED = (
    (re.compile(r"[\ud800-\udfff]"), "a lone surrogate, which is not text", "write it as UTF-8"),
    (re.compile(r"\x00"), "a NUL character", "remove it"),
    (re.compile(r"[\n\r\x0b\x0c\x85\u2028\u2029]"), "a line break", "write it in one line"),
    (re.compile(r"[\x01-\x1f\x7f-\x9f]"), "a control character", "remove it"),
    (re.compile(r"[\u202a-\u202e\u2066-\u2069]"), "a character that reverses the direction of text", "remove it"),
    (
        re.compile(r"[\u2061-\u2064\u206a-\u206f\ufdd0-\ufdef\ufff9-\ufffb\ufffe\uffff]"),
        "an invisible control character",
        "remove it",
    ),
)
# What spreadsheets write for a long number in a column that is not text; and for errors, in several languages.
_SCIENTIFIC = re.compile(r"[+-]?\d([.,]\d+E[+-]|E\+)\d{1,3}", re.IGNORECASE)
_SPREADSHEET_ERRORS = """
#N/A #N/D #N/V #NV #ND #NB #REF! #BEZUG! #VERW! #RIF! #¡REF! #VALUE! #WERT! #VALEUR! #¡VALOR! #VALOR! #VALORE!
#WAARDE! #NAME? #NOM? #¿NOMBRE? #NOME? #NAAM? #DIV/0! #¡DIV/0! #DEEL/0! #NUM! #ZAHL! #NOMBRE! #¡NUM! #NÚM! #GETAL!
#NULL! #NUL! #¡NULO! #NULO! #NULLO! #LEEG! #SPILL! #ÜBERLAUF! #PROPAGATION! #CALC! #KALK! #FIELD! #FELD!
#UNKNOWN! #CONNECT! #BLOCKED! #BUSY! #GETTING_DATA
"""
_ERRORS_OF_CELLS = frozenset(_SPREADSHEET_ERRORS.split())
# Text that a program has kept from being read as a number: ="0012".
_FORMULA_TEXT = re.compile(r'="([^"]*)"')


def checked_identifier(value: object, name: str, *, max_length: int = MAX_IDENTIFIER_LENGTH) -> str:
    """Return an identifier as normalised text; integers become text.

    Raises ValueError, with the reason and a remedy, for anything else, for text that is empty or longer than
    `max_length` characters, and for characters that no identifier contains. `name` is the field, for messages.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = _digits(value, name, max_length)
    if value is None:
        raise ValueError(_empty(name))
    if not isinstance(value, str):
        raise ValueError(f"the {name} must be text or an integer, got {short(value)}{_number_hint(value)}")
    text = value.strip()
    if not (text.isascii() and text.isprintable()):
        text = _normalised(text, name, max_length)
    if not text:
        raise ValueError(_empty(name))
    if len(text) > max_length:
        raise ValueError(
            f"the {name} {short(text)} has {len(text):,} characters; it is longer than {max_length} characters, "
            "so shorten it"
        )
    return text


def table_identifier(value: object, name: str, *, max_length: int = MAX_IDENTIFIER_LENGTH) -> str:
    """Return an identifier of a table as `checked_identifier` does, and refuse what a spreadsheet has destroyed."""
    if isinstance(value, str) and (formula := _FORMULA_TEXT.fullmatch(value.strip())):
        value = formula[1]
    text = checked_identifier(value, name, max_length=max_length)
    if warning := identifier_warning(text):
        raise ValueError(f"the {name} {short(text)} {warning}")
    return text


def lookup_forms(text: str) -> tuple[str, ...]:
    """Return the forms under which an identifier may be stored, the given one first; none if it is no identifier.

    Versions that did not normalise identifiers stored them as they were given, on macOS often in the form NFD.
    """
    try:
        normalised = checked_identifier(text, "identifier")
    except ValueError:
        return ()
    return tuple(dict.fromkeys((text, normalised, unicodedata.normalize("NFD", normalised))))


def identifier_warning(text: str) -> str | None:
    """Return what a program destroyed in an identifier and the remedy, or None.

    Different identifiers may have become this text, so that a table with it must not be imported.
    """
    if _SCIENTIFIC.fullmatch(text):
        return (
            "is a number that a spreadsheet has rounded, so its digits are lost; format the column as text in the "
            "spreadsheet, enter the numbers again, and save the table again"
        )
    if text.upper() in _ERRORS_OF_CELLS:
        return "is an error of a spreadsheet formula; correct the cell, and save the table again"
    if "\ufffd" in text:
        return (
            "contains U+FFFD, which replaces a character that was lost in a wrong encoding; export the table again as "
            "UTF-8"
        )
    return None


def _normalised(text: str, name: str, max_length: int) -> str:
    # NFC at most quarters the length. Longer text is not worth the time to normalise it.
    if len(text) > 4 * max_length + 1000:
        raise ValueError(f"the {name} {short(text)} is longer than {max_length} characters; shorten it")
    text = unicodedata.normalize("NFC", text.translate(_NORMALISED)).strip()
    for pattern, reason, remedy in _REFUSED:
        if pattern.search(text):
            raise ValueError(f"the {name} {short(text)} contains {reason}; {remedy}")
    if all(character in _BLANK or unicodedata.category(character) in _BLANK_CATEGORIES for character in text):
        return ""
    return text


def _digits(value: int, name: str, max_length: int) -> str:
    # Python refuses to write integers of more than 4,300 digits.
    if abs(value) >= 10**max_length:
        raise ValueError(f"the {name} is an integer of more than {max_length} digits; shorten it")
    return str(value)


def _empty(name: str) -> str:
    return f"the {name} is empty; give it as text or an integer"


def _number_hint(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return f"; write {int(value)}, without a decimal point"
    return '; write numbers as text, such as "1.5"' if isinstance(value, float) else ""
