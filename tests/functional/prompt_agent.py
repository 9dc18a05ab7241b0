"""The agent of a box, with the constants that `Box.set_constants` chose."""

import json
import os

from twisted.python.reflect import namedModule

from opq_twisted.cli.daemon import box_agent

if __name__ == "__main__":
    for name, value in json.loads(os.environ["OPQ_CONSTANTS"]).items():
        module_name, _, constant = name.rpartition(".")
        module = namedModule(f"opq_twisted.box.{module_name}")
        assert hasattr(module, constant), name
        setattr(module, constant, value)
    box_agent()
