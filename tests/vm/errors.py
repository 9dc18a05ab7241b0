"""What can go wrong with a machine, or be found wrong with a box."""


class Broken(Exception):
    """Something did not become what it must; the text says what."""


def must(condition: bool, text: str) -> None:
    """
    Make sure of something.

    :raises Broken: with the text.
    """
    if not condition:
        raise Broken(text)
