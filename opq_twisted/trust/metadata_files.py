"""The name of the folder of the signed metadata, and the sizes of the files in it."""

#: The name of the folder of the signed metadata, in the updates directory and in URLs.
METADATA = "tuf"

#: Bytes of the largest file of each role, which are the defaults of TUF's own client.
_MAX_SIZES = {"root": 512_000, "timestamp": 16_384, "snapshot": 2_000_000, "targets": 5_000_000}


def max_size(url: str) -> int:
    """
    Return the limit of bytes of a metadata file, which applies even if a larger length is signed.

    :param url: its URL or name, such as `2.targets.json`; a delegated role counts as targets.
    """
    role = url.rsplit("/", 1)[-1].split(".")[-2]
    return _MAX_SIZES.get(role, _MAX_SIZES["targets"])
