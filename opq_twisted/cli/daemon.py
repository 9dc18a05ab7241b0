"""`opq-update-server` and `opq-box-agent`: run a plugin of twistd in the foreground."""

import sys

from twisted.application.service import IServiceMaker
from twisted.python.reflect import namedAny
from twisted.scripts.twistd import ServerOptions, runApp


class _Options(ServerOptions):
    """The options of twistd itself, which knows only one plugin, and need not look for others."""

    def __init__(self, plugin: IServiceMaker) -> None:
        self._plugin = plugin
        super().__init__()

    @property
    def subCommands(self) -> list[tuple[str, None, object, str]]:
        """The plugin; twistd takes it from `loadedPlugins`."""
        name = self._plugin.tapname
        self.loadedPlugins = {name: self._plugin}
        return [(name, None, self._plugin.options, self._plugin.description)]


def update_server() -> None:
    """Run the update server."""
    _run("opq_update_server")


def box_agent() -> None:
    """Run the box's agent."""
    _run("opq_box_agent")


def _run(module: str) -> None:
    plugin = namedAny(f"twisted.plugins.{module}.{module}")
    options = _Options(plugin)
    options.parseOptions(["--nodaemon", "--pidfile=", plugin.tapname, *sys.argv[1:]])
    runApp(options)
