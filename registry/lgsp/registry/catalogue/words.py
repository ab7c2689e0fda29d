"""Words as people type them: without marks, case and camel humps, so that `dan cu` finds `Dân cư`. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_WORD: Final = 64
# đ is a letter of its own in Unicode: NFD leaves it whole.
_STROKES: Final = str.maketrans("đĐ", "dD")
_RUNS: Final = re.compile(r"[^\W_]+")
_HUMPS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def bare(text: str) -> str:
    """The text without Vietnamese (or any other combining) marks; case stays."""
    if text.isascii():
        return text
    apart = unicodedata.normalize("NFD", text)
    kept = "".join(letter for letter in apart if not unicodedata.combining(letter))
    return unicodedata.normalize("NFC", kept).translate(_STROKES)


def fold(text: str) -> str:
    """What two ways of writing a name have in common: no marks, no case, single spaces."""
    return " ".join(bare(text).casefold().split())


def words(text: str) -> list[str]:
    """The folded words of a text in order; `GetWard` is `getward`, `get` and `ward`."""
    found: list[str] = []
    for run in _RUNS.findall(bare(text)):
        found.append(run.casefold()[:MAX_WORD])
        humps = _HUMPS.findall(run) if run.isascii() and not run.islower() else []
        if len(humps) > 1:
            found += [hump.lower()[:MAX_WORD] for hump in humps]
    return found


def query_words(text: str) -> list[str]:
    """The words that a searcher asks for, each once: humps are for what is searched, not for what is asked."""
    return list(dict.fromkeys(run.casefold()[:MAX_WORD] for run in _RUNS.findall(bare(text))))
