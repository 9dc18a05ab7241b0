"""Make `twistd opq-update-server` known."""

from twisted.application.service import ServiceMaker

opq_update_server = ServiceMaker(
    "OPQ update server",
    "opq_twisted.server.service",
    "Serve updates to OPQ boxes.",
    "opq-update-server",
)
