"""Signs releases and root keys for `opq-release`; boxes do not get this package."""
