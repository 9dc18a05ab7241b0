"""Runs a Python program many times, in forks of a process that has imported its modules once."""

import atexit
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.helpers.project import PROJECT

#: Reads a line for each run, and writes a line with its exit status.
_SERVER = """
import gc, importlib, json, os, runpy, signal, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
# No run has to look through all that is imported.
gc.freeze()
for line in sys.stdin:
    program, arguments, environment, out, err = json.loads(line)
    pid = os.fork()
    if not pid:
        # A program that hangs fails its test.
        signal.alarm(120)
        for path, number in ((os.devnull, 0), (out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_RDWR), number)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [program, *arguments]
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@cache
def _server(*preloaded: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _SERVER, *preloaded]
    server = subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)
    return server


def run(
    program: str | Path,
    arguments: Sequence[str | Path],
    environment: Mapping[str, str],
    *preloaded: str,
) -> "subprocess.CompletedProcess[str]":
    """
    Run a file `*.py`, or a module as `python -m` does, to its end.

    :param preloaded: the modules that are imported once, before the first run.
    """
    server = _server(*preloaded)
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        texts = [str(argument) for argument in arguments]
        order = [str(program), texts, dict(environment), out.name, err.name]
        print(json.dumps(order), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(texts, status, out.read(), err.read())
