"""What the catalogue keeps of a contract: its methods and its words, so that the contract itself need not stay in memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf import descriptor_pb2

from lgsp.registry.catalogue import comments
from lgsp.registry.catalogue.comments import Comment, Path, comments_of
from lgsp.registry.catalogue.words import words

_MAX_TEXT: Final = 8_000


@dataclass(frozen=True, slots=True)
class Facts:
    """Of the service in one contract: `text` has the words of its file's comments, messages and fields, folded, each once."""

    digest: str
    methods: tuple[str, ...]
    description: str
    text: str


def facts_of(digest: str, contract: bytes, service: str) -> Facts:
    """Read a contract that was checked when it was published."""
    found = declaring_file(descriptor_pb2.FileDescriptorSet.FromString(contract), service)
    if found is None:
        return Facts(digest, (), "", "")
    file, at = found
    said, declared = comments_of(file), file.service[at]
    texts = (*_names(file), *(each.text for each in said.values()))
    return Facts(
        digest,
        tuple(method.name for method in declared.method),
        comment_on(said, comments.FILE_SERVICE, at).text,
        " ".join(dict.fromkeys(words("\n".join(texts)[:_MAX_TEXT]))),
    )


def declaring_file(
    files: descriptor_pb2.FileDescriptorSet, service: str
) -> tuple[descriptor_pb2.FileDescriptorProto, int] | None:
    """The file that declares the service, and the service's place in it."""
    package, _, short = service.rpartition(".")
    for file in files.file:
        if file.package == package:
            for at, declared in enumerate(file.service):
                if declared.name == short:
                    return file, at
    return None


def comment_on(said: Mapping[Path, Comment], *path: int) -> Comment:
    """The comment at a path; an empty one where there is none."""
    return said.get(path, comments.NONE)


def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    for message in file.message_type:
        yield message.name
        yield from (field.name for field in message.field)
    yield from (each.name for each in file.enum_type)
