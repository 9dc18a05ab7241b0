"""
Runs `pip install`, and shows in one line of the terminal how many packages it has fetched.

`make` calls it before any package is there, so it needs the standard library only.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator


def counted(lines: Iterable[str]) -> Iterator[str]:
    """Turn the lines that pip prints into a few words each time that it does something else."""
    fetched = 0
    for line in lines:
        verb, _, rest = line.strip().partition(" ")
        if verb in ("Collecting", "Processing"):
            fetched += 1
            # A requirement, or the path of a wheel in pip's cache or a folder.
            name = re.match(r".*/(\w+)|([\w.-]*)", rest)
            yield f"{fetched}: {name[1] or name[2] if name else ''}"
        elif verb == "Downloading" and fetched:
            # The name of a wheel, and its size in brackets.
            yield f"{fetched}: {rest.partition('-')[0]} {rest.partition(' ')[2]}"
        elif verb == "Installing" and rest.startswith("collected packages:"):
            yield f"unpacking {rest.count(',') + 1} packages"


def main(arguments: list[str]) -> int:
    """Run pip with these arguments; returns its exit status. Its errors are shown as they are."""
    command = [sys.executable, "-m", "pip", "install", "--progress-bar=off", *arguments]
    on_terminal = sys.stdout.isatty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as pip:
        assert pip.stdout is not None
        try:
            for words in counted(pip.stdout):
                if on_terminal:
                    line = f"  {words}"[: shutil.get_terminal_size().columns - 1]
                    print(f"\r{line}\033[K", end="", flush=True)
            return pip.wait()
        except KeyboardInterrupt:
            return 130
        finally:
            if on_terminal:
                print("\r\033[K", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
