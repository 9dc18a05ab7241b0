"""Where the checkout is that is tested."""

from pathlib import Path

#: The top folder of the checkout.
PROJECT = Path(__file__).resolve().parents[2]
