"""A generated module's contract as providers hand it over: a serialized FileDescriptorSet, imports first."""

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor


def descriptor_set(root: FileDescriptor) -> bytes:
    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        file.CopyToProto(files.file.add())

    add(root)
    return files.SerializeToString(deterministic=True)
