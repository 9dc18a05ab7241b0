"""A real machine: the agent on a Debian with systemd in QEMU, whose power can be cut."""
