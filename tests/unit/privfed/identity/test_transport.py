"""The transport key and its certificate: one encoding of one curve, and no other key's word."""

import base64
import hashlib
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privfed.errors import IdentityError
from privfed.identity.transport import (
    as_pem,
    check_transport_key,
    hosts_of,
    new_transport_key,
    public_of,
    read_transport_key,
    require_certificate_of,
    self_signed_certificate,
    transport_fingerprint,
)
from privfed.storage.private_files import write_private

# NIST SP 800-186, section 3.2.1.4: y^2 = x^3 - 3x + b.
PRIME = 2**384 - 2**128 - 2**96 + 2**32 - 1
B = int(
    "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec"
    "2aef",
    16,
)
BASE_X = (
    "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b98"
    "59f741e082542a385502f25dbf55296c3a545e3872760ab7"
)
BASE_Y = (
    "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147c"
    "e9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f"
)
BASE = bytes.fromhex("03" + BASE_X)
P256_BASE = "036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"

PEM, PUBLIC = new_transport_key()
OTHER_PEM, OTHER_PUBLIC = new_transport_key()
NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
CERTIFICATE = self_signed_certificate(PEM, "hub", ["hub.example.org", "10.0.0.7"], 730, NOW)


def on_the_curve(x):
    return pow((x**3 - 3 * x + B) % PRIME, (PRIME - 1) // 2, PRIME) != PRIME - 1


def encoded(x, first=2):
    return bytes([first]) + x.to_bytes(48, "big")


def pem_of(key, encoding=serialization.Encoding.PEM, form=serialization.PrivateFormat.PKCS8):
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def read(certificate):
    return x509.load_pem_x509_certificate(certificate)


def resealed(certificate):
    """A certificate with changed content, as PEM."""
    text = base64.encodebytes(certificate).replace(b"\n", b"")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----\n"])


NO_PUBLIC_KEY = {
    "P-256": bytes.fromhex(P256_BASE),
    "uncompressed": bytes.fromhex("04" + BASE_X + BASE_Y),
    "hybrid": bytes.fromhex("07" + BASE_X + BASE_Y),
    "uncompressed, cut": bytes.fromhex("04" + BASE_X),
    "no form": bytes.fromhex("00" + BASE_X),
    "short": BASE[:-1],
    "long": BASE + b"\0",
    "zeros": bytes(49),
    "infinity": b"\0",
    "nothing": b"",
    "bytearray": bytearray(BASE),
    "hex": BASE.hex(),
    "none": None,
}
NO_SECRET_KEY = {
    "nothing": b"",
    "noise": b"\xff" * 99,
    "cut": PEM[:-40],
    "public": as_pem(PUBLIC),
    "certificate": CERTIFICATE,
    "P-256": pem_of(ec.generate_private_key(ec.SECP256R1())),
    "P-521": pem_of(ec.generate_private_key(ec.SECP521R1())),
    "Ed25519": pem_of(ed25519.Ed25519PrivateKey.generate()),
    "encrypted": ec.derive_private_key(1, ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    ),
}
NO_CERTIFICATE = {
    "nothing": b"",
    "noise": b"\xff" * 100,
    "secret": PEM,
    "public": as_pem(PUBLIC),
    "cut": CERTIFICATE[:-50],
    "twice": CERTIFICATE + CERTIFICATE,
    "and another": CERTIFICATE + self_signed_certificate(OTHER_PEM, "x", ["x"], 9, NOW),
    "and another, trusted": CERTIFICATE
    + self_signed_certificate(OTHER_PEM, "x", ["x"], 9, NOW).replace(
        b" CERTIFICATE", b" TRUSTED CERTIFICATE"
    ),
    "with a text": b"hub.example.org\n" + CERTIFICATE,
    "with other ends of lines": CERTIFICATE.replace(b"\n", b"\r\n"),
    "with another label": CERTIFICATE.replace(b" CERTIFICATE", b" X509 CERTIFICATE"),
    "with a secret": PEM + CERTIFICATE,
}


class TestPublicKeys:
    def test_the_base_point_is_one_and_so_is_its_negative(self):
        """By hand: y of the base point is odd, so its compressed form begins with 3."""
        assert int(BASE_Y, 16) % 2 == 1
        check_transport_key(BASE)
        check_transport_key(encoded(int(BASE_X, 16), 2))

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, PRIME - 1), st.sampled_from([2, 3]))
    @example(0, 2)
    @example(PRIME - 1, 3)
    def test_exactly_the_points_of_the_curve(self, x, first):
        """Euler's criterion decides, without the library."""
        if on_the_curve(x):
            check_transport_key(encoded(x, first))
        else:
            with pytest.raises(IdentityError, match=r"point of P-384 in compressed form"):
                check_transport_key(encoded(x, first))

    def test_a_second_encoding_of_a_point(self):
        """Reduced modulo the prime, x + p would be the same point."""
        small = next(x for x in range(100) if on_the_curve(x))
        check_transport_key(encoded(small))
        with pytest.raises(IdentityError, match="P-384"):
            check_transport_key(encoded(PRIME + small))

    @pytest.mark.parametrize("key", NO_PUBLIC_KEY.values(), ids=NO_PUBLIC_KEY.keys())
    def test_what_is_none(self, key):
        for use in (check_transport_key, as_pem, transport_fingerprint):
            with pytest.raises(IdentityError, match="point of P-384 in compressed form, 49 bytes"):
                use(key)


class TestKeys:
    def test_a_new_one(self):
        assert PEM.startswith(b"-----BEGIN PRIVATE KEY-----\n")
        assert len(PUBLIC) == 49
        assert public_of(PEM) == PUBLIC
        assert PEM != OTHER_PEM
        assert PUBLIC != OTHER_PUBLIC
        check_transport_key(PUBLIC)

    def test_the_public_half_by_hand(self):
        """The secret 1 has the base point itself."""
        assert public_of(pem_of(ec.derive_private_key(1, ec.SECP384R1()))) == BASE

    def test_as_pem_by_hand(self):
        """SubjectPublicKeyInfo of RFC 5480: two object identifiers and the whole point."""
        prefix = "3076301006072a8648ce3d020106052b81040022036200"
        content = bytes.fromhex(prefix + "04" + BASE_X + BASE_Y)
        body = base64.b64encode(content).decode()
        lines = [body[start : start + 64] for start in range(0, len(body), 64)]
        expected = ["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""]
        assert as_pem(BASE).decode() == "\n".join(expected)
        digits = hashlib.sha256(content).hexdigest()[:32]
        assert transport_fingerprint(BASE).replace(" ", "") == digits
        assert transport_fingerprint(BASE).count(" ") == 7

    def test_as_pem_is_read_back(self):
        loaded = serialization.load_pem_public_key(as_pem(PUBLIC))
        form = serialization.PublicFormat.CompressedPoint
        assert loaded.public_bytes(serialization.Encoding.X962, form) == PUBLIC

    @pytest.mark.parametrize("pem", NO_SECRET_KEY.values(), ids=NO_SECRET_KEY.keys())
    def test_another_secret_is_refused_and_not_shown(self, pem):
        with pytest.raises(IdentityError, match="P-384 key in PEM without a password") as caught:
            public_of(pem)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    def test_a_secret_with_the_public_half_of_another_is_refused(self):
        encoding, form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        secret, other = (serialization.load_pem_private_key(p, None) for p in (PEM, OTHER_PEM))
        whole = pem_of(secret, serialization.Encoding.DER)
        own, strange = (key.public_key().public_bytes(encoding, form) for key in (secret, other))
        assert own in whole
        body = base64.encodebytes(whole.replace(own, strange))
        mixed = b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n"
        with pytest.raises(IdentityError, match="P-384 key"):
            public_of(mixed)

    def test_from_a_file_of_this_user_alone(self, tmp_path):
        write_private(tmp_path / "hub.transport", PEM)
        assert read_transport_key(tmp_path / "hub.transport") == PEM
        (tmp_path / "hub.transport").chmod(0o640)
        with pytest.raises(IdentityError, match="mode 0640"):
            read_transport_key(tmp_path / "hub.transport")
        write_private(tmp_path / "other", as_pem(PUBLIC))
        with pytest.raises(IdentityError, match="P-384 key"):
            read_transport_key(tmp_path / "other")
        write_private(tmp_path / "long", PEM * 20)
        with pytest.raises(IdentityError, match="at most 4096"):
            read_transport_key(tmp_path / "long")


class TestCertificates:
    def test_what_it_says(self):
        made = read(CERTIFICATE)
        assert made.version is x509.Version.v3
        assert made.subject == made.issuer
        assert [part.value for part in made.subject] == ["hub"]
        assert made.not_valid_before_utc == datetime(2026, 11, 30, 11, 0, tzinfo=UTC)
        assert made.not_valid_after_utc == datetime(2028, 11, 29, 12, 0, tzinfo=UTC)
        assert isinstance(made.signature_hash_algorithm, hashes.SHA384)
        assert isinstance(made.public_key().curve, ec.SECP384R1)
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [
            x509.DNSName("hub.example.org"),
            x509.IPAddress(ipaddress.ip_address("10.0.0.7")),
        ]
        constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
        usage = made.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        allowed = (usage.value.digital_signature, usage.value.key_cert_sign)
        denied = (usage.value.key_encipherment, usage.value.crl_sign, usage.value.key_agreement)
        assert (all(allowed), any(denied)) == (True, False)
        extended = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH]

    def test_serial_numbers_differ(self):
        again = self_signed_certificate(PEM, "hub", ["hub.example.org"], 730, NOW)
        assert read(again).serial_number != read(CERTIFICATE).serial_number

    def test_fractions_of_a_second_are_dropped(self):
        late = NOW.replace(microsecond=999_999)
        made = self_signed_certificate(PEM, "hub", ["hub"], 1, late)
        assert read(made).not_valid_after_utc == NOW + timedelta(days=1)

    @pytest.mark.parametrize("name", ["x" * 120, "病" * 80, "Zürich, ward 3"])
    def test_a_name_longer_than_a_common_name_is_cut(self, name):
        made = self_signed_certificate(PEM, name, ["hub"], 1, NOW)
        (part,) = read(made).subject
        assert name.startswith(part.value)
        assert 14 <= len(part.value.encode()) <= 64

    @pytest.mark.parametrize(
        ("hosts", "expected"),
        [
            (["Hub.Example.org", "hub.example.org"], ("hub.example.org",)),
            (["localhost"], ("localhost",)),
            (["a" * 63 + ".org"], ("a" * 63 + ".org",)),
            (["xn--zrich-kva.ch", "::1", "10.0.0.7"], ("xn--zrich-kva.ch", "::1", "10.0.0.7")),
            (["2001:DB8::0:1", "2001:db8::1"], ("2001:db8::1",)),
            (["3com"], ("3com",)),
        ],
    )
    def test_hosts(self, hosts, expected):
        made = self_signed_certificate(PEM, "hub", hosts, 1, NOW)
        assert hosts_of(made) == expected

    @pytest.mark.parametrize(
        "host",
        [
            "",
            " hub",
            "hub\n",
            "hub\0.org",
            "https://hub",
            "hub:7700",
            "[::1]",
            "fe80::1%eth0",
            "10.0.0.300",
            "10.0.0.0/8",
            "*.example.org",
            "hub.example.org.",
            "a..b",
            "-hub",
            "hub-",
            "a" * 64,
            "a." * 127 + "org",
            "zürich.ch",
            "hub_1",
        ],
    )
    def test_what_is_no_host(self, host):
        with pytest.raises(IdentityError, match="IP address or a DNS name in ASCII"):
            self_signed_certificate(PEM, "hub", ["hub.org", host], 1, NOW)

    def test_no_host(self):
        with pytest.raises(IdentityError, match="got none"):
            self_signed_certificate(PEM, "hub", [], 1, NOW)

    @pytest.mark.parametrize("days", [0, -1, 3651, 10**9, True, 1.5, float("nan"), "7", None])
    def test_other_times(self, days):
        with pytest.raises(IdentityError, match="1 to 3650 days"):
            self_signed_certificate(PEM, "hub", ["hub"], days, NOW)

    @pytest.mark.parametrize("names", [["hub.org", "a@hub.org"], ["a@hub.org"]])
    def test_one_that_is_for_something_else_too(self, names):
        kinds = [x509.RFC822Name if "@" in name else x509.DNSName for name in names]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
        values = [kind(name) for kind, name in zip(kinds, names, strict=True)]
        secret = serialization.load_pem_private_key(PEM, None)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(secret.public_key())
            .serial_number(1)
            .not_valid_before(NOW)
            .not_valid_after(NOW + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(values), critical=False)
            .sign(secret, hashes.SHA384())
            .public_bytes(serialization.Encoding.PEM)
        )
        with pytest.raises(IdentityError, match="for none or for something else"):
            hosts_of(made)

    def test_another_secret(self):
        other = pem_of(ec.generate_private_key(ec.SECP256R1()))
        with pytest.raises(IdentityError, match="P-384 key"):
            self_signed_certificate(other, "hub", ["hub"], 1, NOW)


class TestRequired:
    @pytest.mark.parametrize(
        "now",
        [
            NOW,
            NOW - timedelta(hours=1),
            NOW + timedelta(days=730) - timedelta(seconds=1),
            NOW.astimezone(),
        ],
    )
    def test_the_partys_own(self, now):
        require_certificate_of(CERTIFICATE, PUBLIC, now)

    @pytest.mark.parametrize("late", [timedelta(0), timedelta(days=1)])
    def test_an_expired_one(self, late):
        with pytest.raises(
            IdentityError, match=r"2028-11-29T12:00:00\+00:00; make .* `privfed roster certificate"
        ):
            require_certificate_of(CERTIFICATE, PUBLIC, NOW + timedelta(days=730) + late)

    def test_one_that_is_not_yet_valid(self):
        now = NOW - timedelta(hours=1, seconds=1)
        with pytest.raises(
            IdentityError,
            match=r"2026-11-30T11:00:00\+00:00 and the clock here says "
            r"2026-11-30T10:59:59\+00:00; set the clock",
        ):
            require_certificate_of(CERTIFICATE, PUBLIC, now)

    def test_the_keys_of_two_parties_swapped(self):
        other = self_signed_certificate(OTHER_PEM, "hub", ["hub.example.org"], 730, NOW)
        require_certificate_of(other, OTHER_PUBLIC, NOW)
        for certificate, public in ((CERTIFICATE, OTHER_PUBLIC), (other, PUBLIC)):
            with pytest.raises(IdentityError, match="this one is of another key"):
                require_certificate_of(certificate, public, NOW)

    def test_the_negative_of_the_key(self):
        """The same x, the other y: half of a compressed point is not enough."""
        negative = bytes([PUBLIC[0] ^ 1]) + PUBLIC[1:]
        with pytest.raises(IdentityError, match="this one is of another key"):
            require_certificate_of(CERTIFICATE, negative, NOW)

    @pytest.mark.parametrize(
        "key", [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()]
    )
    def test_another_kind_of_key(self, key):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
        is_edwards = isinstance(key, ed25519.Ed25519PrivateKey)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(NOW)
            .not_valid_after(NOW + timedelta(days=1))
            .sign(key, None if is_edwards else hashes.SHA384())
            .public_bytes(serialization.Encoding.PEM)
        )
        with pytest.raises(IdentityError, match="this one is of another key"):
            require_certificate_of(made, PUBLIC, NOW)
        with pytest.raises(IdentityError, match="for none or for something else"):
            hosts_of(made)

    def test_a_longer_life_than_was_signed(self):
        """Anybody can write another date; only the key's owner can sign it."""
        raw = read(CERTIFICATE).public_bytes(serialization.Encoding.DER)
        assert raw.count(b"281129120000Z") == 1
        forged = resealed(raw.replace(b"281129120000Z", b"481129120000Z"))
        assert read(forged).not_valid_after_utc.year == 2048
        with pytest.raises(IdentityError, match="signed with the transport key"):
            require_certificate_of(forged, PUBLIC, NOW + timedelta(days=3000))

    def test_one_that_another_key_signed_for_this_key(self):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
        forged = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(serialization.load_pem_public_key(as_pem(PUBLIC)))
            .serial_number(1)
            .not_valid_before(NOW)
            .not_valid_after(NOW + timedelta(days=1))
            .sign(serialization.load_pem_private_key(OTHER_PEM, None), hashes.SHA384())
            .public_bytes(serialization.Encoding.PEM)
        )
        with pytest.raises(IdentityError, match="signed with the transport key"):
            require_certificate_of(forged, PUBLIC, NOW)

    @pytest.mark.parametrize("key", [b"", PUBLIC[:-1]], ids=["none", "cut"])
    def test_a_party_without_a_key(self, key):
        with pytest.raises(IdentityError, match="point of P-384"):
            require_certificate_of(CERTIFICATE, key, NOW)

    def test_every_changed_byte_is_refused(self):
        for position in range(0, len(CERTIFICATE), 3):
            changed = bytearray(CERTIFICATE)
            changed[position] ^= 1
            with pytest.raises(IdentityError):
                require_certificate_of(bytes(changed), PUBLIC, NOW)

    @pytest.mark.parametrize("content", NO_CERTIFICATE.values(), ids=NO_CERTIFICATE.keys())
    def test_a_file_with_anything_else(self, content):
        """A TLS library would trust every certificate in the file."""
        for use in (
            lambda: require_certificate_of(content, PUBLIC, NOW),
            lambda: hosts_of(content),
        ):
            with pytest.raises(IdentityError, match="must be one in PEM, exactly"):
                use()

    def test_a_long_file(self):
        with pytest.raises(IdentityError, match="at most 65536 bytes"):
            require_certificate_of(CERTIFICATE * 99, PUBLIC, NOW)


class TestInUse:
    @pytest.fixture
    def connect(self, tmp_path):
        """A function that shakes hands with a server, in memory."""

        def handshake(certificate, trusted, host):
            (tmp_path / "both.pem").write_bytes(PEM + certificate)
            server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.load_cert_chain(tmp_path / "both.pem")
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.verify_flags |= ssl.VERIFY_X509_STRICT
            client.load_verify_locations(cadata=trusted.decode())
            up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
            ends = [
                client.wrap_bio(down, up, server_hostname=host),
                server.wrap_bio(up, down, server_side=True),
            ]
            for _ in range(4):
                for end in ends:
                    try:
                        end.do_handshake()
                    except ssl.SSLWantReadError:
                        continue
            return ends[0].version()

        return handshake

    @pytest.mark.parametrize("host", ["hub.example.org", "10.0.0.7"])
    def test_tls_trusts_it_as_the_only_root(self, connect, host):
        made = self_signed_certificate(
            PEM, "hub", ["hub.example.org", "10.0.0.7"], 9, datetime.now(UTC)
        )
        assert connect(made, made, host) == "TLSv1.3"

    def test_tls_refuses_another_host_or_another_key(self, connect):
        now = datetime.now(UTC)
        made = self_signed_certificate(PEM, "hub", ["hub.example.org"], 9, now)
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            connect(made, made, "hub.example.com")
        other = self_signed_certificate(OTHER_PEM, "hub", ["hub.example.org"], 9, now)
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(made, other, "hub.example.org")
