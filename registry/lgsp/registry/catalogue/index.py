"""An inverted index of services by folded words, kept word by word as records change. Pure; whoever follows the registry feeds it.

A query's words must all be in a service, each as a word or the beginning of one. What the word stands in decides its weight;
a whole word counts more than a beginning, and a name that holds the query as it was typed, marks included, most of all.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from lgsp.registry.catalogue.words import fold, query_words, words

MAX_QUERY_WORDS: Final = 16
# A beginning of one letter stands for thousands of words: those after these are not looked at.
MAX_EXPANDED: Final = 2000
MAX_WORDS: Final = 4000
# Field → weight.
WEIGHTS: Final[Mapping[str, int]] = {"name": 40, "identifier": 30, "method": 20, "agency": 12, "contact": 8, "text": 3}
_WHOLE: Final = 2
_MANY: Final = 1000
# Behind every letter.
_LAST: Final = chr(0x10FFFF)
_NAMED, _NAMED_EXACTLY = 60, 120


@dataclass(frozen=True, slots=True)
class Document:
    """What is searched of one service: field → texts, and the names as written."""

    texts: Mapping[str, tuple[str, ...]]
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class _Kept:
    weights: dict[str, int]
    folded: tuple[str, ...]
    composed: tuple[str, ...] = field(default=())


class Index:
    """Key → document, and the words that lead there."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._keys_of: dict[str, set[str]] = {}
        # Every word of `_keys_of`, sorted when `_in_order`; idle ones lead nowhere (counted at least as often as they are).
        self._vocabulary: list[str] = []
        self._in_order, self._idle = True, 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: str, document: Document) -> None:
        """Take a document in place of the one before."""
        self.drop(key)
        weights = _weights(document)
        names = document.names
        self._kept[key] = _Kept(weights, tuple(map(fold, names)), tuple(map(_composed, names)))
        for word in weights:
            if word not in self._keys_of:
                self._keys_of[word] = set()
                self._vocabulary.append(word)
                self._in_order = False
            self._keys_of[word].add(key)

    def drop(self, key: str) -> None:
        """Forget a document; one that is not there is forgotten already."""
        kept = self._kept.pop(key, None)
        for word in kept.weights if kept else ():
            keys = self._keys_of[word]
            keys.discard(key)
            self._idle += not keys

    def search(self, query: str) -> list[tuple[int, str]]:
        """(score, key), the best first, equal ones by key; every key with score 0 for a query without words."""
        asked = query_words(query)[:MAX_QUERY_WORDS]
        if not asked:
            return [] if query.strip() else [(0, key) for key in sorted(self._kept)]
        self._settle()
        known = {word: self._beginning_with(word) for word in asked}
        having = sorted((self._having(each) for each in known.values()), key=len)
        folded, composed = fold(query), _composed(query)
        ranked = [
            (sum(self._weight(key, *each) for each in known.items()) + self._bonus(key, folded, composed), key)
            for key in having[0].intersection(*having[1:])
        ]
        return sorted(ranked, key=lambda each: (-each[0], each[1]))

    def _settle(self) -> None:
        """Put new words into order, and forget idle ones when there are many: once for all changes since the last query."""
        if self._idle > max(_MANY, len(self._vocabulary) // 2):
            self._keys_of = {word: keys for word, keys in self._keys_of.items() if keys}
            self._vocabulary, self._idle, self._in_order = list(self._keys_of), 0, False
        if not self._in_order:
            self._vocabulary.sort()
            self._in_order = True

    def _beginning_with(self, word: str) -> list[str]:
        """The known words that begin so, in order; at most MAX_EXPANDED."""
        start = bisect_left(self._vocabulary, word)
        end = bisect_left(self._vocabulary, word + _LAST, start)
        return self._vocabulary[start : min(end, start + MAX_EXPANDED)]

    def _having(self, known: list[str]) -> set[str]:
        """The keys that have one of the words."""
        return set().union(*(self._keys_of[each] for each in known))

    def _weight(self, key: str, word: str, known: list[str]) -> int:
        """The best that the word stands for in a document."""
        weights = self._kept[key].weights
        here = (
            (each for each in known if each in weights)
            if len(known) < len(weights)
            else (each for each in weights if each.startswith(word))
        )
        return max(weights[each] * (_WHOLE if each == word else 1) for each in here)

    def _bonus(self, key: str, folded: str, composed: str) -> int:
        kept = self._kept[key]
        if any(composed in name for name in kept.composed):
            return _NAMED_EXACTLY
        return _NAMED if any(folded in name for name in kept.folded) else 0


def _weights(document: Document) -> dict[str, int]:
    best: dict[str, int] = {}
    for place, texts in document.texts.items():
        for word in _words_of(texts):
            if word in best or len(best) < MAX_WORDS:
                best[word] = max(best.get(word, 0), WEIGHTS[place])
    return best


def _words_of(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in words(text)]


def _composed(text: str) -> str:
    """One form for the two ways Unicode has to write a marked letter."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
