"""The catalog of the archives in the updates directory, and its watcher."""
