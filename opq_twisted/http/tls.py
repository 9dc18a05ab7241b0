"""Serves TLS with the certificate, its chain and the key that are in their files now."""

import os
import re
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.ssl import CertificateOptions
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from opq_twisted.common import files

#: Bytes: a chain of certificates has some thousands.
_MAX_FILE = 1 << 20

#: The words of Twisted's `ssl:` description that are understood here.
_KNOWN = {"privateKey", "certKey", "extraCertChain", "interface", "backlog"}

#: Device, inode, size and time of change, of each file. The last also changes with the rights.
_Stamp = tuple[tuple[int, int, int, int], ...]


@frozen
class Certificate:
    """The files of a server's certificate, in PEM."""

    key: Path
    #: The server's own certificate first; those of intermediate authorities may follow it.
    certificate: Path
    #: More certificates of intermediate authorities.
    chain: Path | None = None

    def load(self) -> CertificateOptions:
        """
        Read the files.

        :raises ValueError: when they do not fit each other, or are no certificate and no key.
        :raises OSError: when one cannot be read.
        """
        certificates = _certificates(self.certificate)
        if self.chain is not None:
            certificates += _certificates(self.chain)
        own, *chain = certificates
        try:
            # With a passphrase of its own OpenSSL asks for none on the terminal.
            key = crypto.load_privatekey(
                crypto.FILETYPE_PEM, files.read(self.key, _MAX_FILE), passphrase=b""
            )
            options = CertificateOptions(privateKey=key, certificate=own, extraCertChain=chain)
            options.getContext()
        except (crypto.Error, SSL.Error):
            raise ValueError(
                f"{self.key} is not the unencrypted private key of {self.certificate}"
            ) from None
        return options

    def stamp(self) -> _Stamp:
        """
        Tell these files from those that will take their places.

        :raises OSError: when one is not there.
        """
        paths = (self.key, self.certificate, *((self.chain,) if self.chain else ()))
        states = [os.stat(path) for path in paths]
        return tuple((each.st_dev, each.st_ino, each.st_size, each.st_ctime_ns) for each in states)


def _certificates(path: Path) -> list[crypto.X509]:
    content = files.read(path, _MAX_FILE)
    try:
        found = load_pem_x509_certificates(content)
    except ValueError:
        raise ValueError(f"{path} holds no certificates in PEM") from None
    return [crypto.X509.from_cryptography(each) for each in found]


@implementer(IOpenSSLServerConnectionCreator)
@define(eq=False)
class CurrentCertificate:
    """
    Gives each new connection the certificate that is in its files by then.

    A certificate is renewed every few weeks by another program. Until all of its files can be read
    and fit each other, the one before is used, and the reason is logged once.
    """

    _certificate: Certificate
    _options: CertificateOptions = field(init=False)
    _stamp: _Stamp = field(init=False)
    _complaint: str = field(init=False, default="")

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        """Read the files; raises as `Certificate.load` does."""
        self._stamp = self._certificate.stamp()
        self._options = self._certificate.load()

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLServerConnectionCreator.serverConnectionForTLS`."""
        self._renew()
        return SSL.Connection(self._options.getContext(), None)

    def _renew(self) -> None:
        try:
            stamp = self._certificate.stamp()
            if stamp == self._stamp:
                return
            self._options = self._certificate.load()
        except OSError as error:
            # It may pass although no file changes: descriptors are free again, or a folder is open.
            self._complain(error)
        except ValueError as error:
            # Files that cannot be used are not read again before they change.
            self._stamp = stamp
            self._complain(error)
        else:
            self._stamp = stamp
            self._complaint = ""
            self._log.info("The renewed certificate is used.")

    def _complain(self, error: Exception) -> None:
        """Log why the files cannot be used, once for each reason: every connection asks."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            self._log.warn("The renewed certificate is not used: {error}.", error=error)


@implementer(IStreamServerEndpoint)
@frozen
class TLSEndpoint:
    """TLS over another endpoint."""

    endpoint: Any
    certificate: CurrentCertificate

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """Listen; fails as the other endpoint does."""
        listening: Deferred[IListeningPort] = self.endpoint.listen(
            TLSMemoryBIOFactory(self.certificate, False, protocolFactory)
        )
        return listening


def parse_ssl(description: str) -> tuple[str, CurrentCertificate] | None:
    """
    Understand Twisted's `ssl:` description of an endpoint.

    :returns: the description of the TCP port, and its certificate; None for a description with
        settings that only Twisted's own endpoint has.
    :raises OSError: when a file cannot be read.
    :raises ValueError: when the files hold no certificate and its key.
    """
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^:\\])+", description)]
    if len(words) < 2 or "=" in words[1] or not all("=" in word for word in words[2:]):
        return None
    settings = dict(word.split("=", 1) for word in words[2:])
    if not settings.keys() <= _KNOWN:
        return None
    key = Path(settings.get("privateKey", "server.pem"))
    chain = settings.get("extraCertChain")
    certificate = Certificate(
        key, Path(settings.get("certKey", key)), None if chain is None else Path(chain)
    )
    port = [words[1]]
    for name in ("interface", "backlog"):
        if name in settings:
            port.append(f"{name}={settings[name]}".replace(":", r"\:"))
    if len(port) > 1:
        port.insert(0, "tcp")
    return ":".join(port), CurrentCertificate(certificate)
