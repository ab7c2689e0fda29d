"""What can keep a node from starting or running, each with what to do about it.

NodeError
├── DataDirError     the data directory cannot be used
│   ├── DataDirLockedError    another supervisor holds it
│   └── DataDirNewerError     a newer release wrote it
├── SettingsError    a setting cannot be used
├── ListenError      the public address cannot be bound
├── BinaryError      Envoy or NATS is missing or of another version
└── PartFailedError       a part did not come up
"""

from __future__ import annotations


class NodeError(Exception):
    """`detail` says what is wrong, `remedy` what the operator should do; neither holds a secret."""

    def __init__(self, detail: str, remedy: str) -> None:
        self.detail = detail
        self.remedy = remedy
        super().__init__(f"{detail}. {remedy}")


class DataDirError(NodeError):
    """The data directory cannot be used."""


class DataDirLockedError(DataDirError):
    """Another supervisor holds the data directory."""


class DataDirNewerError(DataDirError):
    """A newer release wrote the data directory."""


class SettingsError(NodeError):
    """A setting cannot be used."""


class ListenError(NodeError):
    """The public address cannot be bound."""


class BinaryError(NodeError):
    """Envoy or NATS is missing or of another version."""


class PartFailedError(NodeError):
    """A part did not come up."""
