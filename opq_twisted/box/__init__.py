"""The box agent: takes a box from the release it runs to the newest one."""
