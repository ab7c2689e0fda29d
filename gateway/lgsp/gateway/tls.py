"""The node's own certificate authority and the certificate of its public listener.

Made at the first start: an authority (P-256, ten years, signs leaf certificates only) and a listener certificate (13
months at most, as browsers ask) that is renewed a month before its end and whenever the names it must carry change.
The authority's key never leaves `D/keys`. A city that has an authority of its own replaces `D/keys/listener.pem` and
`D/keys/listener.key` and its callers trust that authority: a certificate we did not make is left alone.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lgsp.gateway.datadir import write_private
from lgsp.gateway.errors import DataDirError
from lgsp.gateway.settings import Settings

_CA_LIFE: Final = datetime.timedelta(days=3653)
_LEAF_LIFE: Final = datetime.timedelta(days=397)
_RENEW_BEFORE: Final = datetime.timedelta(days=30)
# Clocks of callers may be behind.
_BACKDATE: Final = datetime.timedelta(hours=1)
# Where systems keep the authorities that they trust: Debian and Alpine, Red Hat, SUSE, macOS and BSD.
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def system_bundle() -> str | None:
    """The authorities that this machine trusts (SSL_CERT_FILE, or where its kind of system has them); None: nobody."""
    named = os.environ.get("SSL_CERT_FILE")
    return next((path for path in ([named] if named else _BUNDLES) if _has_certificates(path)), None)


def _has_certificates(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"BEGIN CERTIFICATE" in file.read(1 << 16)
    except OSError:
        return False


def ensure_tls(settings: Settings, now: datetime.datetime | None = None) -> bool:
    """Make or renew what is missing or old; True when the listener's certificate changed."""
    instant = now or datetime.datetime.now(datetime.UTC)
    layout = settings.layout
    ca_key_file = layout.keys / "ca.key"
    if not layout.ca.exists():
        ca_key = _new_key(ca_key_file)
        write_private(layout.ca, _pem(_make_authority(settings, ca_key, instant)))
    authority = read_certificate(layout.ca)
    names = listener_names(settings)
    if not _must_make(settings, authority, names, instant):
        return False
    if not ca_key_file.exists():
        raise DataDirError(
            f"{ca_key_file} is missing", "Restore it from a backup; without it no certificate can be renewed."
        )
    signer = serialization.load_pem_private_key(ca_key_file.read_bytes(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise DataDirError(f"{ca_key_file} is no P-256 key", "Restore it from a backup.")
    leaf_key = _new_key(settings.listener_key)
    leaf = _make_leaf(names, leaf_key, authority, signer, instant)
    write_private(settings.listener_cert, _pem(leaf) + _pem(authority))
    return True


def listener_names(settings: Settings) -> list[str]:
    """Every host name and address by which callers may reach the listener."""
    wanted = ["localhost", "127.0.0.1", "::1", settings.public_host, settings.listen_host, socket.gethostname()]
    return list(dict.fromkeys(name for name in wanted if name and not _is_unspecified(name)))


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file; DataDirError when it holds none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise DataDirError(
            f"{path} holds no certificate", "Restore it from a backup, or remove it to have a new one made."
        ) from None


def _must_make(settings: Settings, authority: x509.Certificate, names: list[str], now: datetime.datetime) -> bool:
    if not (settings.listener_cert.exists() and settings.listener_key.exists()):
        return True
    leaf = read_certificate(settings.listener_cert)
    if leaf.issuer != authority.subject:
        return False
    return leaf.not_valid_after_utc - now < _RENEW_BEFORE or not set(names) <= set(certificate_names(leaf))


def certificate_names(leaf: x509.Certificate) -> list[str]:
    """Host names and addresses in a certificate."""
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*found.get_values_for_type(x509.DNSName), *(str(ip) for ip in found.get_values_for_type(x509.IPAddress))]


def _is_unspecified(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return False


def _new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_private(path, key.private_bytes(*kinds))
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _make_authority(settings: Settings, key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> x509.Certificate:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, settings.city_names.vi),
            x509.NameAttribute(NameOID.COMMON_NAME, f"LGSP {settings.city} {settings.node} CA"),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _make_leaf(
    names: list[str],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "LGSP gateway")])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(min(now + _LEAF_LIFE, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
