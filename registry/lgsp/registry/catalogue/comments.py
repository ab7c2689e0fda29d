"""The comments of a contract, by the path of what they stand at (SourceCodeInfo in descriptor.proto). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf import descriptor_pb2

Path = tuple[int, ...]
# Field numbers in descriptor.proto.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE, FILE_EXTENSION, FILE_PACKAGE, FILE_SYNTAX = 4, 5, 6, 7, 2, 12
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_EXTENSION, MESSAGE_ONEOF = 2, 3, 4, 6, 8
ENUM_VALUE, SERVICE_METHOD = 2, 2
_SENTENCE: Final = re.compile(r"(.+?[.!?])(?:\s|$)", re.S)
# Words to a linter, not to people.
_PRAGMA: Final = re.compile(r"^\s*(buf:lint:|@exclude).*$", re.M)


@dataclass(frozen=True, slots=True)
class Comment:
    """What stands before, behind, and before with an empty line between."""

    leading: str = ""
    trailing: str = ""
    detached: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What it says to a reader."""
        return tidy(self.leading or self.trailing)


NONE: Final = Comment()


def comments_of(file: descriptor_pb2.FileDescriptorProto) -> Mapping[Path, Comment]:
    """Path → comment of everything in the file that has one."""
    return {
        tuple(place.path): Comment(
            place.leading_comments, place.trailing_comments, tuple(place.leading_detached_comments)
        )
        for place in file.source_code_info.location
        if place.leading_comments or place.trailing_comments or place.leading_detached_comments
    }


def tidy(text: str) -> str:
    """Lines without their margin."""
    return "\n".join(line.strip() for line in _PRAGMA.sub("", text).strip().splitlines()).strip()


def first_sentence(text: str, most: int = 300) -> str:
    """What fits into a list."""
    line = " ".join(text.split())
    found = _SENTENCE.match(line)
    return (found[1] if found else line)[:most]
