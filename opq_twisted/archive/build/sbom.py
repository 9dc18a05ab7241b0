"""Writes the software bill of materials (SBOM) of an update, in the format CycloneDX 1.6."""

import os
import uuid
import zipfile
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from opq_twisted import __version__
from opq_twisted.archive.build.components import AGENT, WHEELS
from opq_twisted.archive.build.contents import Contents, File
from opq_twisted.archive.name import UpdateName
from opq_twisted.common import files
from opq_twisted.common.errors import BuildFailed

_SUFFIX = ".cdx.json"
#: Characters; some packages have the whole text of their licence there.
_MAX_LICENCE = 60


def write_sbom(archive: Path, name: UpdateName, contents: Contents) -> Path:
    """
    Write the SBOM beside an archive, and return its path; the same archive gives the same bytes.

    It lists the components, and each wheel with its version, licence and hash. The files of a
    component that are no wheels are not listed one by one.

    :raises BuildFailed: if a wheel cannot be read, or the SBOM cannot be written.
    """
    sbom = archive.with_name(f"{name.folder}{_SUFFIX}")
    try:
        digest = _sha256(archive)
        bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"sha256:{digest}"))
        bom.metadata.timestamp = datetime.fromtimestamp(name.version, UTC)
        bom.metadata.component = Component(
            name="opq-box-update",
            version=str(name.version),
            type=ComponentType.FIRMWARE,
            bom_ref=archive.name,
            hashes=[_hash(digest)],
        )
        parts = [*_components(contents), *_wheels(contents)]
        bom.components.update(parts)
        bom.register_dependency(bom.metadata.component, parts)
        files.write(sbom, f"{JsonV1Dot6(bom).output_as_string(indent=2)}\n".encode())
    except OSError as error:
        raise BuildFailed(
            f"{archive} was built, but not its SBOM ({error.filename or sbom}: {error.strerror}): "
            "fix that, remove the archive and build again."
        ) from error
    return sbom


def _components(contents: Contents) -> list[Component]:
    """Describe the folders at the top of an update, but for that of the wheels."""
    folders = {path.partition("/")[0] for path in contents if "/" in path} - {WHEELS}
    return [_component(folder, contents) for folder in sorted(folders)]


def _component(folder: str, contents: Contents) -> Component:
    is_ours = folder == AGENT and f"{AGENT}/opq_twisted/__init__.py" in contents
    return Component(
        name=folder,
        version=__version__ if is_ours else None,
        type=ComponentType.APPLICATION,
        bom_ref=folder,
        licenses=[LicenseFactory().make_from_string("Apache-2.0")] if is_ours else [],
    )


def _wheels(contents: Contents) -> list[Component]:
    return [
        _wheel(path, file)
        for path, file in sorted(contents.items())
        if file is not None and path.endswith(".whl")
    ]


def _wheel(path: str, file: File) -> Component:
    metadata = _metadata(file.source)
    name, version = metadata["Name"], metadata["Version"]
    source = PackageURL("pypi", None, name.lower(), version, {"file_name": os.path.basename(path)})
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=path,
        purl=source,
        hashes=[_hash(_sha256(file.source))],
        licenses=_licences(metadata),
    )


def _metadata(wheel: Path) -> Message:
    """Read the core metadata of a wheel (PyPA specification, "Binary distribution format")."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            [member] = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
            metadata = message_from_bytes(archive.read(member))
    except (ValueError, zipfile.BadZipFile) as error:
        raise BuildFailed(
            f"{wheel.name} is no wheel ({error}): leave it out, and build again."
        ) from error
    if not metadata["Name"] or not metadata["Version"]:
        raise BuildFailed(f"{wheel.name} is no wheel: leave it out, and build again.")
    return metadata


def _licences(metadata: Message) -> list[License]:
    """Return the licence by its SPDX name if the package says it, else in the package's words."""
    short = metadata["License"] if len(metadata["License"] or "") <= _MAX_LICENCE else None
    prefix = "License :: OSI Approved :: "
    classifiers: list[str] = metadata.get_all("Classifier", [])
    named = [each.removeprefix(prefix) for each in classifiers if each.startswith(prefix)]
    text = metadata["License-Expression"] or short or next(iter(named), None)
    return [LicenseFactory().make_from_string(text)] if text else []


def _sha256(path: Path) -> str:
    with files.open_regular(path) as file:
        return files.hash_file(file.fileno(), ["sha256"])["sha256"]


def _hash(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
