"""Runs the commands of a program, in this process or on a pseudo-terminal with typed answers."""

import contextlib
import io
import os
import pty
import select
import signal
from collections.abc import Callable, Mapping

#: Seconds without output after which a program is killed.
_TIMEOUT = 60.0


def on_terminal(
    *argv: object, prompts: Mapping[bytes, bytes], environment: Mapping[str, str] | None = None
) -> tuple[str, int]:
    """
    Run a program to its end.

    :param prompts: the answers, typed once when the output ends with the prompt.
    :returns: the output and the exit status.
    """
    command = [*map(str, argv)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**os.environ, **(environment or {})})
    said, waiting = b"", dict(prompts)
    with contextlib.suppress(OSError):  # the program has closed its end
        while data := _read(terminal, pid):
            said += data
            for prompt in list(waiting):
                if said.endswith(prompt):
                    os.write(terminal, waiting.pop(prompt))
    os.close(terminal)
    return said.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _read(terminal: int, pid: int) -> bytes:
    if not select.select([terminal], [], [], _TIMEOUT)[0]:
        os.kill(pid, signal.SIGKILL)
    return os.read(terminal, 4096)


def run_main(main: Callable[[list[str]], int], *arguments: object) -> tuple[int, str, str]:
    """Run a program's main function; return the exit code, standard output and error."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return code, out.getvalue(), error.getvalue()
