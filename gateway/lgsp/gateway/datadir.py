"""The data directory of a node: its layout, version, permissions and lock.

Rule 1: everything in it is readable by its owner alone (folders 0700, files 0600).
Rule 2: a file is replaced whole or not at all: written beside, synced, renamed.
Rule 3: one supervisor at a time; the lock ends with its process, however it ends.
Limit: the lock is flock(2), which does not hold across machines on every network file system.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lgsp.gateway.errors import DataDirError, DataDirLockedError, DataDirNewerError

VERSION: Final = 1
MIN_FREE_BYTES: Final = 64 * 1024 * 1024
_FOLDERS: Final = ("keys", "keys/systems", "nats", "envoy", "logs", "components", "credentials")
# sun_path holds 108 bytes with its end; the longest socket name here needs the rest.
_MAX_RUN_PATH: Final = 84
_LOCK_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of one node is."""

    root: Path

    @property
    def version(self) -> Path:
        return self.root / "version"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def settings(self) -> Path:
        return self.root / "settings.json"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def system_keys(self) -> Path:
        return self.keys / "systems"

    @property
    def nats(self) -> Path:
        return self.root / "nats"

    @property
    def envoy(self) -> Path:
        return self.root / "envoy"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def components(self) -> Path:
        return self.root / "components"

    @property
    def credentials(self) -> Path:
        return self.root / "credentials"

    @property
    def run(self) -> Path:
        """Sockets and status; a symbolic link to a shorter path where the data directory's own is too long."""
        return self.root / "run"

    @property
    def status(self) -> Path:
        return self.run / "status.json"

    @property
    def operator_key(self) -> Path:
        return self.root / "operator.jwk"

    @property
    def operator_jwks(self) -> Path:
        return self.root / "operator.pub.jwks"

    @property
    def ca(self) -> Path:
        return self.root / "ca.pem"


def file_name(identifier: str) -> str:
    """A system id as one path segment: `H26.15/one-stop` → `H26.15__one-stop`."""
    return identifier.replace("/", "__")


def open_data_dir(root: Path) -> Layout:
    """Create or check the data directory; DataDirError says what is wrong with it."""
    layout = Layout(root.absolute())
    try:
        layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(layout.root)
        _check_version(layout)
        _check_space(layout.root)
        if not layout.version.exists():
            write_private(layout.version, f"{VERSION}\n")
        for folder in _FOLDERS:
            private_folder(layout.root / folder)
        _run_folder(layout)
    except OSError as error:
        raise _explain(layout.root, error) from error
    return layout


def _explain(root: Path, error: OSError) -> DataDirError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataDirError(
            f"the disk of the data directory {root} is full", "Free some space, or choose another --data-dir."
        )
    return DataDirError(
        f"the data directory {root} cannot be written: {error.strerror}",
        "Give its owner the right to write there, or choose another --data-dir.",
    )


def _check_owner(root: Path) -> None:
    found = root.stat()
    if found.st_uid != os.geteuid():
        raise DataDirError(
            f"the data directory {root} belongs to user {found.st_uid}, not to the user {os.geteuid()} who runs this",
            "Run as its owner, or choose another --data-dir.",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        root.chmod(0o700)


def _check_version(layout: Layout) -> None:
    try:
        text = layout.version.read_text("ascii").strip()
    except FileNotFoundError:
        if any(layout.root.iterdir()):
            raise DataDirError(
                f"{layout.root} holds other files and is no data directory",
                "Choose an empty or new folder as --data-dir.",
            ) from None
        return
    if not text.isdecimal():
        raise DataDirError(
            f"{layout.version} does not hold a version number",
            "Restore it from a backup, or choose another --data-dir.",
        )
    if int(text) > VERSION:
        raise DataDirNewerError(
            f"the data directory {layout.root} has version {text}, this release knows {VERSION}",
            "Use the release that wrote it or a newer one.",
        )


def free_bytes(path: Path) -> int:
    """Free space for this user on the disk of `path`."""
    return shutil.disk_usage(path).free


def _check_space(root: Path) -> None:
    free = free_bytes(root)
    if free < MIN_FREE_BYTES:
        raise DataDirError(
            f"the disk of the data directory {root} is full: {free >> 20} MiB free, {MIN_FREE_BYTES >> 20} MiB needed",
            "Free some space, or choose another --data-dir.",
        )


def private_folder(path: Path) -> None:
    """Make the folder, or make it its owner's alone."""
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)


def _run_folder(layout: Layout) -> None:
    if len(os.fsencode(layout.run)) <= _MAX_RUN_PATH:
        if layout.run.is_symlink():
            layout.run.unlink()
        private_folder(layout.run)
        return
    short = _short_run_path(layout.root)
    private_folder(short)
    if short.is_symlink() or short.stat().st_uid != os.geteuid():
        raise DataDirError(f"{short} belongs to somebody else", "Choose a shorter --data-dir.")
    if layout.run.is_symlink() and layout.run.readlink() == short:
        return
    with suppress(FileNotFoundError):
        layout.run.unlink()
    layout.run.symlink_to(short)


def _short_run_path(root: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"lgsp-{os.geteuid()}-{digest}"


def write_private(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content`, mode 0600, whole or not at all; a full disk is a DataDirError."""
    raw = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise _explain(path.parent, error) from error


@contextmanager
def hold_lock(layout: Layout) -> Iterator[None]:
    """Be the one supervisor of this data directory; DataDirLockedError when another is."""
    handle = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take_lock(layout, handle)
        yield
    finally:
        os.close(handle)


def _take_lock(layout: Layout, handle: int) -> None:
    # A short patience, because `is_held` of another process holds it shared for an instant.
    until = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise DataDirLockedError(
                    f"another `lgsp up` runs on the data directory {layout.root}",
                    "Stop that one first, or choose another --data-dir.",
                ) from None
            time.sleep(0.05)


def is_held(layout: Layout) -> bool:
    """True while a supervisor runs on this data directory."""
    try:
        handle = os.open(layout.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
