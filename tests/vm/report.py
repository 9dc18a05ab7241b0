"""Tells the person who watches how it goes."""


def say(text: str) -> None:
    """Print it at once, also into a file."""
    print(text, flush=True)
