"""Serves TLS with a certificate that is reloaded when its files change."""

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

#: Bytes. A certificate chain has some thousands.
_MAX_FILE = 1 << 20

#: The settings of Twisted's `ssl:` description that `parse_ssl` supports.
_KNOWN = {"privateKey", "certKey", "extraCertChain", "interface", "backlog"}

#: Device, inode, size and ctime of each file. The ctime also changes with the permissions.
_Stamp = tuple[tuple[int, int, int, int], ...]


@frozen
class CertificateFiles:
    """The PEM files of a server's certificate and key."""

    key: Path
    #: The server's own certificate; those of intermediate authorities may follow it.
    certificate: Path
    #: More certificates of intermediate authorities.
    chain: Path | None = None

    def load(self) -> CertificateOptions:
        """
        Read the files.

        :raises ValueError: if a file has no certificate or key, or the key does not match.
        :raises OSError: if a file cannot be read.
        """
        certificates = _certificates(self.certificate)
        if self.chain is not None:
            certificates += _certificates(self.chain)
        own, *chain = certificates
        try:
            # An empty passphrase keeps OpenSSL from asking for one on the terminal.
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
        """Give values that change with the files; raise `OSError` if a file is missing."""
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
    Gives each new connection the certificate that its files hold at that time.

    Another program renews the certificate every few weeks. Until all new files can be read and
    match each other, the certificate before stays in use, and the reason is logged once.
    """

    _files: CertificateFiles
    _options: CertificateOptions = field(init=False)
    _stamp: _Stamp = field(init=False)
    _problem: str = field(init=False, default="")

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        """Read the files; raises the errors of `CertificateFiles.load`."""
        self._stamp = self._files.stamp()
        self._options = self._files.load()

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLServerConnectionCreator.serverConnectionForTLS`."""
        self._renew()
        return SSL.Connection(self._options.getContext(), None)

    def _renew(self) -> None:
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return
            self._options = self._files.load()
        except OSError as error:
            # This can pass without a change of the files: permissions of a folder, descriptors.
            self._log_problem(error)
        except ValueError as error:
            # Do not read unusable files again before they change.
            self._stamp = stamp
            self._log_problem(error)
        else:
            self._stamp = stamp
            self._problem = ""
            self._log.info("The renewed certificate is used.")

    def _log_problem(self, error: Exception) -> None:
        """Log why the files cannot be used; once, although every connection asks for them."""
        if str(error) != self._problem:
            self._problem = str(error)
            self._log.warn("The renewed certificate is not used: {error}.", error=error)


@implementer(IStreamServerEndpoint)
@frozen
class TLSEndpoint:
    """TLS over another endpoint."""

    endpoint: Any
    certificate: CurrentCertificate

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """Listen; fails like the wrapped endpoint."""
        factory = TLSMemoryBIOFactory(self.certificate, False, protocolFactory)
        # Twisted's default delays a small write for a turn of the reactor, and joins it with the
        # next ones. Here a small response is a single write.
        factory.protocol = TLSMemoryBIOProtocol
        listening: Deferred[IListeningPort] = self.endpoint.listen(factory)
        return listening


def parse_ssl(description: str) -> tuple[str, CurrentCertificate] | None:
    """
    Parse Twisted's `ssl:` endpoint description.

    :returns: the description of the TCP port, and the certificate; None for a description with
        settings that only Twisted's own endpoint has.
    :raises OSError: if a file cannot be read.
    :raises ValueError: if a file has no certificate or key, or the key does not match.
    """
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^:\\])+", description)]
    if len(words) < 2 or "=" in words[1] or not all("=" in word for word in words[2:]):
        return None
    settings = dict(word.split("=", 1) for word in words[2:])
    if not settings.keys() <= _KNOWN:
        return None
    key = Path(settings.get("privateKey", "server.pem"))
    chain = settings.get("extraCertChain")
    certificate = CertificateFiles(
        key, Path(settings.get("certKey", key)), None if chain is None else Path(chain)
    )
    port = [words[1]]
    for name in ("interface", "backlog"):
        if name in settings:
            port.append(f"{name}={settings[name]}".replace(":", r"\:"))
    if len(port) > 1:
        port.insert(0, "tcp")
    return ":".join(port), CurrentCertificate(certificate)
