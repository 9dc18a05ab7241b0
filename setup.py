"""Find the packages; all that is said about the project is in pyproject.toml."""

import atexit
import shutil
import tempfile

from setuptools import find_packages, setup

# In the sources, the files that root makes would stop the build of an ordinary user, and those
# of a build long ago would get into the next package.
scratch = tempfile.mkdtemp(prefix="opq_twisted-build-")
atexit.register(shutil.rmtree, scratch, ignore_errors=True)

setup(
    # twisted.plugins is not a package of ours, so find_packages() cannot see it.
    packages=[*find_packages(include=["opq_twisted", "opq_twisted.*"]), "twisted.plugins"],
    # Without this an editable install hides the plugins behind an import hook of its own.
    package_dir={"": "."},
    options={"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}},
)
