"""Package the update server, the box agent and their twistd plugins."""

from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup

here = Path(__file__).parent


def requirements() -> list[str]:
    lines = (here / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="opq_twisted",
    version=run_path(str(here / "opq_twisted" / "__init__.py"))["__version__"],
    description="Updates the software of OPQ Boxes: update server, box agent and builder.",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    install_requires=requirements(),
    # twisted.plugins is not a package of ours, so find_packages() cannot see it.
    packages=[*find_packages(include=["opq_twisted", "opq_twisted.*"]), "twisted.plugins"],
    # Without this an editable install hides the plugins behind an import hook of its own.
    package_dir={"": "."},
    package_data={
        "opq_twisted": ["py.typed"],
        "opq_twisted.box.install": ["preflight.sh"],
        "opq_twisted.box.web": ["page/*"],
        "opq_twisted.server.web": ["page/*"],
    },
    entry_points={
        "console_scripts": [
            "opq-box=opq_twisted.cli.box.main:main",
            "opq-release=opq_twisted.cli.release.main:main",
        ]
    },
    zip_safe=False,
)
