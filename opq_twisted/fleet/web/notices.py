"""Keeps the sentences about the results of actions, until the next page shows them."""

import secrets
from collections import OrderedDict

#: So many of the last sentences are kept.
_MAX = 200


class Notices:
    """
    Gives each sentence a random word for the URL of the next page.

    If the sentence itself were in the URL, anybody could make a link to a page with a false
    sentence.
    """

    def __init__(self) -> None:
        self._sentences: OrderedDict[str, str] = OrderedDict()

    def add(self, sentence: str) -> str:
        """Keep a sentence, and return its word."""
        word = secrets.token_urlsafe(9)
        self._sentences[word] = sentence
        if len(self._sentences) > _MAX:
            self._sentences.popitem(last=False)
        return word

    def find(self, word: str) -> str | None:
        """Return the sentence of a word; None if it is not kept any more."""
        return self._sentences.get(word)
