"""The location of the tested checkout."""

from pathlib import Path

#: The top folder of the checkout.
PROJECT = Path(__file__).resolve().parents[2]
