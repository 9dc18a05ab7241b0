"""What `make` shows while pip installs packages."""

from twisted.trial.unittest import SynchronousTestCase

from tests.helpers.pip_progress import counted


class CountedTests(SynchronousTestCase):
    """The lines that pip prints."""

    def test_counted(self) -> None:
        """Each package is counted, whether pip downloads it or has it already."""
        lines = [
            "Looking in indexes: https://example.org/simple",
            "Collecting securesystemslib[crypto]>=1.4",
            "  Downloading securesystemslib-1.6.0-py3-none-any.whl (874 kB)",
            "Processing /a folder/service_identity-26.1.0-py3-none-any.whl",
            "Collecting prometheus-client==0.26.0 (from -c constraints.txt (line 9))",
            "  Using cached prometheus_client-0.26.0-py3-none-any.whl",
            "Installing collected packages: securesystemslib, service_identity, prometheus-client",
        ]
        self.assertEqual(
            list(counted(lines)),
            [
                "1: securesystemslib",
                "1: securesystemslib (874 kB)",
                "2: service_identity",
                "3: prometheus-client",
                "unpacking 3 packages",
            ],
        )
