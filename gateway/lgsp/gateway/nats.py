"""The embedded NATS server: its configuration, its keys, and the connection of the control process.

Rule 1: two accounts that cannot see each other. CORE (registry, audit, keys) is for control processes alone, by nkey;
        BUS is for events. Nobody signs in without a key, and there is no default user.
Rule 2: what is acknowledged is on the disk: `sync_interval: always`.
Rule 3: it listens on the loopback interface only. The first start takes a port from the kernel, later ones keep it.
With `--nats-url` nothing is started here: the cluster must know the public half of the CORE key.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nkeys

from lgsp.gateway.datadir import write_private
from lgsp.gateway.errors import NodeError
from lgsp.gateway.settings import Settings

if TYPE_CHECKING:
    from nats.aio.client import Client

WANTED_VERSION: Final = "2.15"
# A contract of 4 MiB that compresses badly still fits; NATS advises against more.
_MAX_PAYLOAD: Final = 8 * 1024 * 1024
_CONFIG: Final = """\
# Written by `lgsp up` at every start; changes are lost.
server_name: {node}
listen: "127.0.0.1:{port}"
ports_file_dir: {run}
max_payload: {max_payload}
jetstream {{
  store_dir: {store}
  sync_interval: always
}}
accounts {{
  CORE {{
    jetstream: enabled
    users: [ {{ nkey: {core} }} ]
  }}
  BUS {{
    jetstream: enabled
    users: [ {{ nkey: {bus} }} ]
  }}
}}
"""


def ensure_seeds(settings: Settings) -> None:
    """Make the nkeys of CORE and BUS where they are missing (0600)."""
    for path in (settings.core_seed, settings.bus_seed):
        if not path.exists():
            write_private(path, nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))


def public_nkey(seed_file: Path) -> str:
    """The public half of a seed: what a server's configuration holds."""
    key: bytes = nkeys.from_seed(bytearray(seed_file.read_bytes().strip())).public_key
    return key.decode()


def write_config(settings: Settings, port: int) -> list[str]:
    """Write the server's configuration and give its command line; port -1 lets the kernel choose."""
    text = _CONFIG.format(
        node=_quoted(settings.node),
        port=port,
        run=_quoted(str(settings.run)),
        max_payload=_MAX_PAYLOAD,
        store=_quoted(str(settings.layout.nats)),
        core=public_nkey(settings.core_seed),
        bus=public_nkey(settings.bus_seed),
    )
    path = settings.layout.keys / "nats.conf"
    write_private(path, text)
    return [settings.nats_binary, "--config", str(path)]


def _quoted(text: str) -> str:
    """A string of the server's configuration, which knows no \\u escapes: letters stay as they are."""
    return json.dumps(text, ensure_ascii=False)


def ports_file(settings: Settings, pid: int) -> Path:
    """Where the server with this process id says on which port it listens."""
    return settings.run / f"{Path(settings.nats_binary).name}_{pid}.ports"


def listening_port(settings: Settings, pid: int) -> int | None:
    """The port of the server with this process id; None while it does not listen."""
    try:
        found = json.loads(ports_file(settings, pid).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    addresses: list[str] = found.get("nats") or []
    return int(addresses[0].rpartition(":")[2]) if addresses else None


def forget_ports_files(settings: Settings) -> None:
    """Remove what servers that were killed left behind."""
    for left in settings.run.glob("*.ports"):
        left.unlink(missing_ok=True)


def url(settings: Settings) -> str:
    """Where NATS is just now; NodeError while it was never up."""
    if settings.nats_url is not None:
        return settings.nats_url
    try:
        return settings.nats_url_file.read_text("ascii").strip()
    except FileNotFoundError:
        raise NodeError("the embedded NATS server is not up", "Start the node with `lgsp up`.") from None


async def connect_core(settings: Settings, **options: Any) -> Client:
    """A connection to the account CORE that reconnects for ever; `options` go to `nats.connect`."""
    return await _connect(settings, settings.core_seed, options)


async def _connect(settings: Settings, seed: Path, options: dict[str, Any]) -> Client:
    import nats

    defaults: dict[str, Any] = {
        "name": settings.node,
        "nkeys_seed": str(seed),
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "connect_timeout": 2,
        "ping_interval": 10,
        # Own inbox space: nobody else's wildcard is meant to match it.
        "inbox_prefix": "_INBOX_" + base64.b32encode(os.urandom(10)).decode().rstrip("="),
    }
    return await nats.connect(url(settings), **(defaults | options))
