"""Find the packages; all that is said about the project is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # twisted.plugins is not a package of ours, so find_packages() cannot see it.
    packages=[*find_packages(include=["opq_twisted", "opq_twisted.*"]), "twisted.plugins"],
    # Without this an editable install hides the plugins behind an import hook of its own.
    package_dir={"": "."},
)
