"""The node's own token-signing keys (ES256): made here, never copied, published before they are used.

Rule 1: a key signs only after its public half was published and every gateway can have it.
Rule 2: a key that was replaced stays published until the last token it signed has ended.
The folder holds one JWK a file, 0600; the newest that is published signs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from joserfc.jwk import ECKey

from lgsp.api.registry.v1.registry_pb2 import NodeKey

TOKEN_SECONDS: Final = 300
ALGORITHM: Final = "ES256"
# For how long a gateway still accepts a token after its end, because clocks differ.
_SKEW_S: Final = 60


class SigningKeys:
    """`publish(key)` writes a NodeKey to the registry and returns once every gateway of this node has it."""

    def __init__(self, folder: Path, node: str, publish: Callable[[NodeKey], Awaitable[None]]) -> None:
        self._folder, self._node, self._publish = folder, node, publish
        self._current: ECKey | None = None

    @property
    def kid(self) -> str:
        """The id of the signing key; empty before `start`."""
        return str(self._current.kid) if self._current is not None else ""

    @property
    def current(self) -> ECKey:
        """The key that signs now; RuntimeError before `start`."""
        if self._current is None:
            raise RuntimeError("no signing key yet")
        return self._current

    def load(self) -> bool:
        """Take the newest key on disk, if there is one: it was published before it was kept as current."""
        kept = self._files()
        if kept:
            self._current = _read(kept[-1])
        return self._current is not None

    async def start(self, known: Callable[[str], bool]) -> None:
        """Have a published key: the one on disk, published again if the registry does not know it, or a new one."""
        if not self.load():
            await self.rotate()
            return
        if not known(self.kid):
            await self._publish(self._record(self.current))
        await self._retire_older()

    async def rotate(self) -> tuple[str, str]:
        """Make, publish, then use a new key; answers its id and the previous one's."""
        fresh = ECKey.generate_key("P-256")
        fresh = ECKey.import_key(fresh.as_dict(private=True) | {"kid": fresh.thumbprint()})
        previous = self.kid
        await self._publish(self._record(fresh))
        self._keep(fresh)
        self._current = fresh
        await self._retire_older()
        return self.kid, previous

    async def _retire_older(self) -> None:
        """Give every replaced key its end, and only then forget it: what a crash left behind is done at the next start."""
        for path in self._files()[:-1]:
            await self._publish(self._record(_read(path), retired_in_s=TOKEN_SECONDS + _SKEW_S))
            path.unlink()

    def _files(self) -> list[Path]:
        """Oldest first."""
        return sorted(self._folder.glob("token-*.jwk"), key=lambda path: path.name)

    def _keep(self, key: ECKey) -> None:
        """Write whole or not at all; newer than every other by its name, whatever the clock says."""
        newest = max((int(path.stem.partition("-")[2]) for path in self._files()), default=0)
        path = self._folder / f"token-{max(time.time_ns(), newest + 1):020d}.jwk"
        partial = path.with_name(f".{path.name}")
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(key.as_dict(private=True), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def _record(self, key: ECKey, retired_in_s: int | None = None) -> NodeKey:
        public = key.as_dict(private=False) | {"alg": ALGORITHM, "use": "sig"}
        record = NodeKey(kid=str(key.kid), node=self._node, jwk=json.dumps(public, sort_keys=True))
        record.created_at.GetCurrentTime()
        if retired_in_s is not None:
            record.retired_at.FromSeconds(int(time.time()) + retired_in_s)
        return record


def _read(path: Path) -> ECKey:
    return ECKey.import_key(json.loads(path.read_text("ascii")))
