"""The update server: HTTP over a watched directory of archives."""
