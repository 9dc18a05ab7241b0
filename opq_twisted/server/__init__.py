"""The update server: it serves a watched directory of archives over HTTP."""
