"""
Runs `opq-release` again and again, each time in a fork of a process that has loaded it.

To load it takes longer than most of its commands.
"""

import gc
import json
import os
import socket
import sys

from opq_twisted.cli.release.main import main
from opq_twisted.signing import push
from opq_twisted.trust import pkcs8

#: A program that stands in for opq-release: it lends its files, folder and environment to a fork.
PROGRAM = """\
#!{python} -IS
import json, os, socket, sys
os.umask(umask := os.umask(0))
with socket.socket(socket.AF_UNIX) as fork:
    fork.connect("{path}")
    socket.send_fds(fork, [b"."], [0, 1, 2])
    fork.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ), umask]).encode())
    fork.shutdown(socket.SHUT_WR)
    sys.exit(int(fork.recv(4)))
"""


def serve(path: str) -> None:
    """Run one command after the other."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            with client:
                child = os.fork()
                if child == 0:
                    sys.exit(run(client))
                _, status = os.waitpid(child, 0)
                client.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def run(client: socket.socket) -> int:
    """Become the program of a client; returns the exit status."""
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    for number, file in enumerate(files):
        os.dup2(file, number)
    with client.makefile("rb") as request:
        sys.argv, folder, environment, umask = json.load(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.umask(umask)
    return main()


if __name__ == "__main__":
    # Keys can be opened in no time, and the server on this machine announces as fast.
    pkcs8.COST = 1 << 4
    push._FIRST_PAUSE = 0.05
    # No fork has to look through all that is imported.
    gc.freeze()
    serve(sys.argv[1])
