"""Settings of one node: frozen, checked, kept in `D/settings.json` (0600) and read by every part of the node.

Whatever must be the same at the next start (the city, the public port that was chosen) is remembered there.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import shutil
import socket
import sys
from pathlib import Path
from typing import Final, Literal

import msgspec

from lgsp.gateway.datadir import Layout, write_private
from lgsp.gateway.errors import BinaryError, SettingsError

Profile = Literal["standard", "development"]
DATA_DIR_VARIABLE: Final = "LGSP_DATA_DIR"
_CITY: Final = re.compile(r"[A-Z][0-9]{1,3}")
_ZONE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?|::")


class CityNames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The city's names for people."""

    vi: str = "Thành phố Hà Nội"
    en: str = "Hà Nội"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node. Paths are absolute."""

    data_dir: str
    # Real path of D/run: short enough for unix sockets even where the data directory's path is not.
    run_dir: str
    # Made once: names this node among those of the city.
    node: str
    listen_host: str = "127.0.0.1"
    listen_port: int = 8443
    # What callers and the token issuer use.
    public_host: str = "127.0.0.1"
    city: str = "H26"
    city_names: CityNames = CityNames()
    # An existing cluster; unset means a server of our own.
    nats_url: str | None = None
    profile: Profile = "standard"
    # Where this node stands, as providers name zones; empty is nowhere in particular.
    zone: str = ""
    otlp_endpoint: str | None = None
    envoy_binary: str
    nats_binary: str

    @property
    def layout(self) -> Layout:
        return Layout(Path(self.data_dir))

    @property
    def run(self) -> Path:
        return Path(self.run_dir)

    @property
    def ads_socket(self) -> Path:
        """Delta ADS of the control process (gRPC)."""
        return self.run / "ads.sock"

    @property
    def api_socket(self) -> Path:
        """Registry and node API of the control process (gRPC)."""
        return self.run / "api.sock"

    @property
    def oauth_socket(self) -> Path:
        """OAuth2 endpoints of the control process (HTTP/1.1)."""
        return self.run / "oauth.sock"

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface."""
        return self.run / "envoy-admin.sock"

    @property
    def access_log(self) -> Path:
        """Envoy's access log; the supervisor rotates it."""
        return self.layout.logs / "access.log"

    @property
    def target(self) -> str:
        """`host:port` that callers dial."""
        return join_host_port(self.public_host, self.listen_port)

    @property
    def issuer(self) -> str:
        """OAuth2 issuer and audience of access tokens."""
        return f"https://{self.target}"

    @property
    def operator(self) -> str:
        """System id of the operator who made this node."""
        return f"{self.city}/operator"

    @property
    def listener_cert(self) -> Path:
        """Certificate chain of the public listener."""
        return self.layout.keys / "listener.pem"

    @property
    def listener_key(self) -> Path:
        return self.layout.keys / "listener.key"

    @property
    def core_seed(self) -> Path:
        """nkey seed of the NATS account CORE."""
        return self.layout.keys / "nats-core.seed"

    @property
    def bus_seed(self) -> Path:
        """nkey seed of the NATS account BUS."""
        return self.layout.keys / "nats-bus.seed"

    @property
    def nats_url_file(self) -> Path:
        """Where the embedded NATS server of this start listens."""
        return self.run / "nats.url"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator says at one start; unset keeps what is remembered, or else the default."""

    listen: str | None = None
    public_host: str | None = None
    city: str | None = None
    city_names: CityNames | None = None
    nats_url: str | None = None
    profile: Profile | None = None
    zone: str | None = None
    otlp_endpoint: str | None = None
    envoy_binary: str | None = None
    nats_binary: str | None = None


def default_data_dir() -> Path:
    """LGSP_DATA_DIR, or `~/.local/share/lgsp`."""
    named = os.environ.get(DATA_DIR_VARIABLE)
    return Path(named) if named else Path.home() / ".local" / "share" / "lgsp"


def load(data_dir: Path) -> Settings:
    """The settings that the supervisor wrote; SettingsError when there are none or they cannot be read."""
    layout = Layout(data_dir.absolute())
    try:
        return msgspec.json.decode(layout.settings.read_bytes(), type=Settings)
    except FileNotFoundError:
        raise SettingsError(
            f"no node was started on {layout.root} yet", "Start it with `lgsp up`, or name another --data-dir."
        ) from None
    except OSError as error:
        raise SettingsError(f"{layout.settings} cannot be read: {error.strerror}", "Run as its owner.") from None
    except msgspec.MsgspecError as error:
        raise SettingsError(
            f"{layout.settings} cannot be used: {error}", "Mend or remove that file, then run `lgsp up`."
        ) from None


def save(settings: Settings) -> None:
    """Remember the settings in the data directory."""
    write_private(settings.layout.settings, msgspec.json.format(msgspec.json.encode(settings), indent=2))


def resolve(layout: Layout, options: Options) -> Settings:
    """This start's settings: what the operator says over what is remembered over the defaults."""
    known = load(layout.root) if layout.settings.exists() else None
    if known is not None and options.city not in (None, known.city):
        raise SettingsError(
            f"the data directory {layout.root} belongs to the city {known.city}, not {options.city}",
            "Choose another --data-dir for another city.",
        )
    base = msgspec.structs.asdict(known) if known is not None else {"node": f"node-{secrets.token_hex(4)}"}
    said = {
        name: value for name, value in msgspec.structs.asdict(options).items() if value is not None and name != "listen"
    }
    said |= _listen(options, known)
    binaries = {
        "envoy_binary": find_binary("envoy", options.envoy_binary, known.envoy_binary if known else None),
        "nats_binary": find_binary("nats-server", options.nats_binary, known.nats_binary if known else None),
    }
    places = {"data_dir": str(layout.root), "run_dir": str(layout.run.resolve())}
    return checked(Settings(**(base | said | binaries | places)))


def _listen(options: Options, known: Settings | None) -> dict[str, object]:
    if options.listen is None:
        return {}
    host, port = split_host_port(options.listen)
    if port == 0:
        # Chosen once, then kept: callers know the address.
        kept = known is not None and known.listen_host == host and known.listen_port
        port = kept or free_port(host)
    found: dict[str, object] = {"listen_host": host, "listen_port": port}
    if options.public_host is None:
        found["public_host"] = socket.getfqdn() if _is_any(host) else host
    return found


def checked(settings: Settings) -> Settings:
    """The same settings, or SettingsError for the first that cannot be used."""
    if not _CITY.fullmatch(settings.city):
        raise SettingsError(
            f"{settings.city!r} is no city identifier", "Give --city a code of Decision 20/2020/QĐ-TTg such as H26."
        )
    for option, host in (("--listen", settings.listen_host), ("--public-host", settings.public_host)):
        if not _HOST.fullmatch(host):
            raise SettingsError(
                f"{option}: {host!r} is no host name or address", "Give a host name, an IPv4 or an IPv6 address."
            )
    if settings.zone and not _ZONE.fullmatch(settings.zone):
        raise SettingsError(
            f"--zone: {settings.zone!r} is no zone", "Give a-z, 0-9 and hyphens, at most 64, as in ha-dong-1."
        )
    if settings.nats_url is not None and not settings.nats_url.startswith(("nats://", "tls://")):
        raise SettingsError("--nats-url must start with nats:// or tls://", "Give the URL of an existing NATS cluster.")
    if settings.nats_url is not None and "@" in settings.nats_url:
        raise SettingsError(
            "--nats-url must not hold a password", f"The node signs in with the key {settings.core_seed}."
        )
    return settings


def split_host_port(text: str) -> tuple[str, int]:
    """`127.0.0.1:8443`, `[::1]:8443`, `:8443` → host and port; SettingsError otherwise."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in bare and bare == host):
        raise SettingsError(
            f"{text!r} is no address to listen on", "Give HOST:PORT, for example 127.0.0.1:8443 or [::1]:8443."
        )
    return bare or "127.0.0.1", int(port)


def join_host_port(host: str, port: int) -> str:
    """The opposite of `split_host_port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def free_port(host: str) -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise SettingsError(
                f"--listen: {host} is no address of this machine: {error.strerror}", "Name one of its own addresses."
            ) from None
        return int(probe.getsockname()[1])


def find_binary(name: str, chosen: str | None, remembered: str | None = None) -> str:
    """Absolute path: what was chosen, what is remembered, the wheel beside this interpreter, then PATH."""
    beside = Path(sys.executable).parent
    candidates = [chosen] if chosen else [remembered, str(beside / name), name]
    for candidate in candidates:
        found = candidate and shutil.which(candidate)
        if found:
            return str(Path(found).absolute())
    if chosen:
        raise BinaryError(f"{chosen} is no program that can be run", "Give the path of an executable file.")
    raise BinaryError(f"{name} was not found", "Install it with `pip install 'lgsp[server]'`, or name its path.")
