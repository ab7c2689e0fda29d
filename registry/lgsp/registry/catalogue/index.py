"""An inverted index of services by folded words, kept word by word as records change. Pure; whoever follows the registry feeds it.

A query's words must all be in a service, each as a word or the beginning of one. What the word stands in decides its weight;
a whole word counts more than a beginning, and a name that holds the query as it was typed, marks included, most of all.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, insort
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
        self._vocabulary: list[str] = []

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
                insort(self._vocabulary, word)
            self._keys_of[word].add(key)

    def drop(self, key: str) -> None:
        """Forget a document; one that is not there is forgotten already."""
        kept = self._kept.pop(key, None)
        for word in kept.weights if kept else ():
            keys = self._keys_of[word]
            keys.discard(key)
            if not keys:
                del self._keys_of[word]
                del self._vocabulary[bisect_left(self._vocabulary, word)]

    def search(self, query: str) -> list[tuple[int, str]]:
        """(score, key), the best first, equal ones by key; every key with score 0 for a query without words."""
        asked = query_words(query)[:MAX_QUERY_WORDS]
        if not asked:
            return [] if query.strip() else [(0, key) for key in sorted(self._kept)]
        scores: dict[str, int] | None = None
        for word in asked:
            found = self._found(word)
            scores = found if scores is None else {key: scores[key] + found[key] for key in scores.keys() & found}
        folded, composed = fold(query), _composed(query)
        ranked = [(score + self._bonus(key, folded, composed), key) for key, score in (scores or {}).items()]
        return sorted(ranked, key=lambda each: (-each[0], each[1]))

    def _found(self, word: str) -> dict[str, int]:
        """Key → the best weight that the word has there."""
        best: dict[str, int] = {}
        start = bisect_left(self._vocabulary, word)
        for known in self._vocabulary[start : start + MAX_EXPANDED]:
            if not known.startswith(word):
                break
            factor = _WHOLE if known == word else 1
            for key in self._keys_of[known]:
                best[key] = max(best.get(key, 0), factor * self._kept[key].weights[known])
        return best

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
