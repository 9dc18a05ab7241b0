"""The OpenAPI descriptions in docs/openapi have the routes of the programs."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from twisted.python.usage import Options
from twisted.trial.unittest import SynchronousTestCase

import opq_twisted.box.service
import opq_twisted.server.service
from opq_twisted.http.resource import PlainResource
from opq_twisted.http.site import BoundedSite
from tests.helpers.project import PROJECT


def read(name: str) -> dict[str, Any]:
    """Read a description."""
    text = (PROJECT / "docs" / "openapi" / name).read_text(encoding="utf-8")
    description: dict[str, Any] = yaml.safe_load(text)
    return description


class RouteTests(SynchronousTestCase):
    """The trees of resources, as the services make them."""

    def assert_routes(self, service: ModuleType, description: str, *arguments: str) -> None:
        """Compare the first parts of the paths."""
        roots: list[PlainResource] = []

        class Site(BoundedSite):
            def __init__(self, reactor: Any, root: Any, limits: Any) -> None:
                super().__init__(reactor, root, limits)
                roots.append(root)

        self.patch(service, "BoundedSite", Site)
        options: Options = service.Options()
        options.parseOptions([*arguments])
        service.makeService(options)
        [root] = roots
        documented = {path.split("/")[1] for path in read(description)["paths"]}
        self.assertEqual(documented, {name.decode() for name in root.children})

    def test_update_server(self) -> None:
        """Each route of the update server is described, and no other."""
        service = opq_twisted.server.service
        database = f"sqlite:///{Path(self.mktemp()).absolute()}"
        arguments = ("--updates-dir", ".", "--no-access-log", "--fleet-db", database)
        self.assert_routes(service, "update-server.yaml", *arguments)

    def test_agent(self) -> None:
        """Each route of a box is described, and no other."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        config = folder / "config.json"
        config.write_text(json.dumps({"updates_ep": "http://updates.example", "box_id": 3}))
        arguments = ("--config", str(config), "--state-dir", str(folder / "state"))
        self.assert_routes(opq_twisted.box.service, "box-agent.yaml", *arguments)
