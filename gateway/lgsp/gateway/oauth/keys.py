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
        kept = sorted(self._folder.glob("token-*.jwk"), key=lambda path: path.name)
        if kept:
            self._current = ECKey.import_key(json.loads(kept[-1].read_text("ascii")))
        return self._current is not None

    async def start(self, known: Callable[[str], bool]) -> None:
        """Have a published key: the one on disk, published again if the registry does not know it, or a new one."""
        if self.load():
            if not known(self.kid):
                await self._publish(self._record(self.current))
            return
        await self.rotate()

    async def rotate(self) -> tuple[str, str]:
        """Make, publish, then use a new key; answers its id and the previous one's."""
        fresh = ECKey.generate_key("P-256")
        fresh = ECKey.import_key(fresh.as_dict(private=True) | {"kid": fresh.thumbprint()})
        previous, old = self.kid, self._current
        await self._publish(self._record(fresh))
        self._keep(fresh)
        self._current = fresh
        if old is not None:
            await self._publish(self._record(old, retired_in_s=TOKEN_SECONDS + 60))
        return self.kid, previous

    def _keep(self, key: ECKey) -> None:
        path = self._folder / f"token-{time.time_ns():020d}.jwk"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(key.as_dict(private=True), file)
            file.flush()
            os.fsync(file.fileno())
        for older in sorted(self._folder.glob("token-*.jwk"))[:-1]:
            older.unlink()

    def _record(self, key: ECKey, retired_in_s: int | None = None) -> NodeKey:
        public = key.as_dict(private=False) | {"alg": ALGORITHM, "use": "sig"}
        record = NodeKey(kid=str(key.kid), node=self._node, jwk=json.dumps(public, sort_keys=True))
        record.created_at.GetCurrentTime()
        if retired_in_s is not None:
            record.retired_at.FromSeconds(int(time.time()) + retired_in_s)
        return record
