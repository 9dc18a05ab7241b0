"""Reports the progress of a test, and what is broken."""


class Broken(Exception):
    """A machine or a box is not as it must be; the text says why."""


def must(condition: bool, text: str) -> None:
    """
    Check a condition.

    :raises Broken: with the text, if the condition is false.
    """
    if not condition:
        raise Broken(text)


def say(text: str) -> None:
    """Print a line at once, also into a file."""
    print(text, flush=True)
