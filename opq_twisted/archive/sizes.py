"""The sizes that bound an archive on a box."""

#: The largest size of an archive, in bytes.
MAX_ARCHIVE = 2 << 30

#: The largest size of the decompressed archive, in bytes.
LIMIT = 2 << 30

#: The number of bytes of the disk that must stay free.
RESERVE = 64 << 20
