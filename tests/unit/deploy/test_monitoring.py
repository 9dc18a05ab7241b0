"""The alert rules and the dashboard, checked by Prometheus' own program."""

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from tests.helpers.privileges import tool
from tests.helpers.project import PROJECT

FOLDER = PROJECT / "deploy" / "server" / "monitoring"


def promtool(*arguments: object) -> None:
    """Run the program."""
    command = [tool("promtool"), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}"


def load_alerts() -> list[Any]:
    """Return the alert rules."""
    [group] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    rules: list[Any] = group["rules"]
    return rules


class AlertTests(SynchronousTestCase):
    """The file alerts.yaml."""

    def test_rules(self) -> None:
        """Each alert fires when it has to, and not for a healthy server."""
        promtool("test", "rules", FOLDER / "alerts-test.yaml")

    def test_all_tested(self) -> None:
        """The tests of the rules name each alert."""
        tests = yaml.safe_load((FOLDER / "alerts-test.yaml").read_text())["tests"]
        healthy = {each["alertname"] for each in tests[0]["alert_rule_test"]}
        self.assertEqual(healthy, {rule["alert"] for rule in load_alerts()})

    def test_documented(self) -> None:
        """Troubleshooting says of each alert what to do."""
        text = (PROJECT / "docs" / "troubleshooting.md").read_text()
        missing = [rule["alert"] for rule in load_alerts() if f"`{rule['alert']}`" not in text]
        self.assertEqual(missing, [])


class DashboardTests(SynchronousTestCase):
    """The file dashboard.json."""

    def setUp(self) -> None:
        self.panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]

    def test_expressions(self) -> None:
        """Prometheus understands each expression."""
        expressions = [
            target["expr"] for panel in self.panels for target in panel.get("targets", ())
        ]
        self.assertGreater(len(expressions), 20)
        # Grafana replaces its own variables.
        rules = [
            {"record": f"panel:{number}", "expr": re.sub(r"\$__\w+", "5m", expression)}
            for number, expression in enumerate(expressions)
        ]
        path = Path(self.mktemp())
        path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
        promtool("check", "rules", path)

    def test_places(self) -> None:
        """Each panel has a number and a place of its own."""
        numbers = [panel["id"] for panel in self.panels]
        self.assertEqual(len(set(numbers)), len(numbers))
        for one, other in combinations((panel["gridPos"] for panel in self.panels), 2):
            apart = (
                one["x"] + one["w"] <= other["x"]
                or other["x"] + other["w"] <= one["x"]
                or one["y"] + one["h"] <= other["y"]
                or other["y"] + other["h"] <= one["y"]
            )
            self.assertTrue(apart, f"{one} {other}")
