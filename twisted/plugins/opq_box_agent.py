"""Make `twistd opq-box-agent` known."""

from twisted.application.service import ServiceMaker

opq_box_agent = ServiceMaker(
    "OPQ box agent",
    "opq_twisted.box.service",
    "Keep an OPQ box up to date.",
    "opq-box-agent",
)
