"""The transport key of a party: P-384, for the TLS and node authentication below signed messages.

What a message says is trusted because of its signature, whoever carried it. The process that
carries bytes has this key alone: it proves which machine is at the other end of a connection, and
whoever steals it can neither sign a message nor open a sum. `Party` holds the public half, so one
signed roster pins both; the secret half is a file of its own, which no other file repeats.

An aggregator is connected to, so it also has a certificate of its transport key. Nobody vouches for
it but the roster: parties compare its key with the one enrolled, then trust it and nothing else.

Reference:
    NIST SP 800-186, section 3.2.1.4 (P-384); SEC 1, section 2.3 (compressed points); Cooper et al.
    2008, RFC 5280 (certificates).
"""

import hashlib
import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privfed.errors import IdentityError
from privfed.identity.names import grouped_hex, short
from privfed.storage.private_files import read_private

TRANSPORT_KEY_BYTES: Final = 49
"""Length of a public key: which of two y, then x."""

_PRIME: Final = 2**384 - 2**128 - 2**96 + 2**32 - 1
_CURVE: Final = ec.SECP384R1()
_FINGERPRINT_BYTES = 16
_MAX_SECRET_BYTES = 4096

_MAX_CERTIFICATE_BYTES: Final = 1 << 16
_MAX_DAYS: Final = 3650
_CLOCKS_DIFFER: Final = timedelta(hours=1)
_MAX_COMMON_NAME_BYTES: Final = 64
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def check_transport_key(key: bytes) -> None:
    """Refuse what is not the one compressed encoding of a point of P-384.

    All points of the curve but infinity have the same prime order, so there is no small order.

    Raises:
        IdentityError: if `key` is another length or form, not reduced, or not on the curve.
    """
    _point(key)


def new_transport_key() -> tuple[bytes, bytes]:
    """Fresh from the operating system's generator: the secret key as PEM, and the public key."""
    secret = ec.generate_private_key(_CURVE)
    pem = secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, _compressed(secret.public_key())


def read_transport_key(path: str | os.PathLike[str]) -> bytes:
    """The secret key (PEM) in a file that is this user's alone.

    Raises:
        IdentityError: if others may read or write the file, or it holds anything else.
    """
    pem = read_private(path, most=_MAX_SECRET_BYTES)
    public_of(pem)
    return pem


def public_of(pem: bytes) -> bytes:
    """The public key, 49 bytes, of a secret one.

    Args:
        pem: the secret key, as `new_transport_key` makes it.

    Raises:
        IdentityError: if it is anything else; what came is not shown.
    """
    return _compressed(_secret(pem).public_key())


def as_pem(public: bytes) -> bytes:
    """A public key as SubjectPublicKeyInfo in PEM.

    Raises:
        IdentityError: if `public` is no transport key.
    """
    return _point(public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def transport_fingerprint(public: bytes) -> str:
    """128 bits of SHA-256 over the SubjectPublicKeyInfo (DER), in groups of four hex digits.

    OpenSSL tells the same of a key file: `openssl pkey -pubout -outform DER | sha256sum`.

    Raises:
        IdentityError: if `public` is no transport key.
    """
    content = _point(public).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return grouped_hex(hashlib.sha256(content).digest()[:_FINGERPRINT_BYTES])


def self_signed_certificate(
    pem: bytes, name: str, hosts: Sequence[str], days: int, now: datetime
) -> bytes:
    """A certificate for the server that has this key: the one that its peers then trust.

    Args:
        pem: the secret key.
        name: of the party; a common name holds its first 64 bytes.
        hosts: DNS names and IP addresses that peers connect to; at least one.
        days: how long it is valid from `now`, at most 3650.
        now: with a time zone. It is valid from an hour earlier, since clocks differ.

    Returns:
        PEM.

    Raises:
        IdentityError: if the key, a host or `days` is not that.
    """
    if type(days) is not int or not 1 <= days <= _MAX_DAYS:
        raise IdentityError(
            f"a certificate must be valid for 1 to {_MAX_DAYS} days, got {short(days)}; renewing "
            "one is one command"
        )
    if not hosts:
        raise IdentityError(
            "a certificate must name the hosts that others connect to, got none; give at least one"
        )
    names = list(dict.fromkeys(_general_name(host) for host in hosts))
    secret = _secret(pem)
    common_name = name.encode()[:_MAX_COMMON_NAME_BYTES].decode(errors="ignore")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    start = now.replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _CLOCKS_DIFFER)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        # RFC 5280, section 4.2.1.2: who signs must have one, and strict verifiers ask for it.
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(secret.public_key()), critical=False
        )
        .sign(secret, hashes.SHA384())
    )
    return certificate.public_bytes(Encoding.PEM)


def require_certificate_of(certificate_pem: bytes, public: bytes, now: datetime) -> None:
    """Refuse a certificate that must not be trusted as that of the party with this key.

    One that passes may be handed to TLS as the only root: the file holds nothing else, and only
    the party that has the key can have made it.

    Args:
        certificate_pem: what came with the roster, or from anywhere.
        public: the transport key that the roster names, 49 bytes.
        now: with a time zone.

    Raises:
        IdentityError: if it is no certificate, of another key, not made with that key, expired or
            not valid yet.
    """
    certificate = _certificate(certificate_pem)
    expected = _point(public)
    if _key_of(certificate) != expected:
        raise IdentityError(
            "a certificate must be of the transport key that the roster names, this one is of "
            "another key; take the file from that party, or enrol it anew if it has a new key"
        )
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, TypeError, ValueError) as error:
        raise IdentityError(
            "a certificate must be signed with the transport key that it is of, this one is not: "
            "it was changed, or made by somebody else; ask that party for the file again"
        ) from error
    if now >= certificate.not_valid_after_utc:
        raise IdentityError(
            f"a certificate must not have expired, this one did at "
            f"{certificate.not_valid_after_utc.isoformat()}; make a new one with `privfed roster "
            "certificate IDENTITY --host HOST --out FILE` and hand it to every party"
        )
    if now < certificate.not_valid_before_utc:
        raise IdentityError(
            f"a certificate must be valid already, this one begins at "
            f"{certificate.not_valid_before_utc.isoformat()} and the clock here says "
            f"{now.isoformat()}; set the clock of this machine, or make a new certificate if the "
            "other one was wrong"
        )


def hosts_of(certificate: bytes) -> tuple[str, ...]:
    """The DNS names and IP addresses that a certificate (PEM) is for, in its order.

    Raises:
        IdentityError: if it is no certificate, or names no host or something else than hosts.
    """
    read = _certificate(certificate)
    try:
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        ValueError,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise _not_for_hosts() from error
    hosts = [name.value for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    if not hosts or len(hosts) < len(names):
        raise _not_for_hosts()
    return tuple(str(host) for host in hosts)


def _point(key: bytes) -> ec.EllipticCurvePublicKey:
    """SEC 1, section 2.3.4, for compressed points alone; x must be reduced.

    OpenSSL checks both again; that two encodings are never one key must not hang on its version.
    """
    compressed = (
        isinstance(key, bytes) and len(key) == TRANSPORT_KEY_BYTES and key[:1] in (b"\2", b"\3")
    )
    if compressed and int.from_bytes(key[1:], "big") < _PRIME:
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, key)
        except ValueError:
            pass
    raise IdentityError(
        "a transport key must be a point of P-384 in compressed form, 49 bytes, got "
        f"{short(key.hex() if isinstance(key, bytes) else key)}; make a new identity"
    )


def _compressed(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _secret(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        secret = load_pem_private_key(pem, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        # Not even as the cause: a library may quote what it could not read.
        secret = None
    if isinstance(secret, ec.EllipticCurvePrivateKey) and isinstance(secret.curve, ec.SECP384R1):
        return secret
    raise IdentityError(
        "a secret transport key must be a P-384 key in PEM without a password, this is none; "
        "check the path, or make a new identity"
    )


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.DNSName | x509.IPAddress:
    """An IP address, or a DNS name after RFC 1123, section 2.1; its last part is no number."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower()
        *_, last = name.split(".")
        is_name = re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", name) and not last.isdigit()
        if is_name and len(name) <= 253:
            return x509.DNSName(name)
    else:
        if "%" not in host:
            return x509.IPAddress(address)
    raise IdentityError(
        f"a host must be an IP address or a DNS name in ASCII, got {short(host)}; leave off "
        "scheme, port, brackets and zone, and write a name in other letters as its xn-- form"
    )


def _certificate(pem: bytes) -> x509.Certificate:
    """The one certificate in a file that holds nothing else, not even in other words.

    TLS libraries trust every certificate that they find in a file, under more labels than one.
    """
    if len(pem) > _MAX_CERTIFICATE_BYTES:
        raise IdentityError(
            f"a certificate must have at most {_MAX_CERTIFICATE_BYTES} bytes, {len(pem)} came; "
            "check the path"
        )
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        alone = certificate.public_bytes(Encoding.PEM) == pem
    except (ValueError, x509.InvalidVersion) as error:
        raise _no_certificate() from error
    if not alone:
        raise _no_certificate()
    return certificate


def _key_of(certificate: x509.Certificate) -> object:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _no_certificate() -> IdentityError:
    return IdentityError(
        "a certificate must be one in PEM, exactly as `privfed roster` wrote it, and nothing else, "
        "this is not; ask that party for the file again"
    )


def _not_for_hosts() -> IdentityError:
    return IdentityError(
        "a certificate must be for DNS names and IP addresses, this one is for none or for "
        "something else; make a new one with `privfed roster certificate`"
    )
