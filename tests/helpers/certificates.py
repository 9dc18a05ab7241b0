"""Certificates for servers of the tests."""

import datetime
from ipaddress import IPv4Address
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_NAMES = x509.SubjectAlternativeName(
    [x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("updates.invalid")]
)
_AUTHORITY = x509.BasicConstraints(ca=True, path_length=None)
_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@frozen
class Issued:
    """A certificate and its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate, as it stands in files."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, passphrase: bytes | None = None) -> bytes:
        """Give the key as it stands in files."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )


def issue(name: str, issuer: Issued | None = None, authority: bool = False) -> Issued:
    """
    Make a certificate.

    :param issuer: who signs it; by default it does so itself.
    :param authority: whether it may sign others; otherwise it is that of a server of the tests.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    signer = key if issuer is None else issuer.key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        # Python 3.13 refuses certificates without these (RFC 5280, section 4.2.1).
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if authority:
        builder = builder.add_extension(_AUTHORITY, critical=True)
        builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
    else:
        builder = builder.add_extension(_NAMES, critical=False)
    return Issued(key, builder.sign(signer, hashes.SHA256()))


def make_certificate(key_path: Path, certificate_path: Path) -> None:
    """Write a key, and a certificate for 127.0.0.1 and updates.invalid that it signed itself."""
    issued = issue("localhost")
    key_path.write_bytes(issued.key_pem())
    certificate_path.write_bytes(issued.pem)
