"""Commands of the program as processes of their own, forked from one that has imported their libraries.

To import torch, diffusers and transformers takes longer than most commands do, and the suite runs hundreds. A client
stands where the command would: it passes its arguments, folder, environment and standard streams to the server, and its
signals to the process that the server forks, and ends with the exit code of that process, which ends with the client if
that is killed. Workers that a command starts are made in the same way. The slow libraries that such a process had to
import, the server imports for the next ones. Everything else, above all the program itself, each command loads afresh.

    python forkserver.py serve SOCKET          the server; it ends when its standard input does
    python forkserver.py run SOCKET WORD...    the client: `realign WORD...`
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys

_ENDS = b"\n"  # of a message
_SLOW = {
    *("PIL", "accelerate", "datasets", "diffusers", "huggingface_hub", "matplotlib", "numpy", "open_clip", "openai"),
    *("pandas", "peft", "pyarrow", "pycocotools", "pydantic", "pydantic_core", "pytorch_fid", "safetensors", "scipy"),
    *("segment_anything", "sympy", "torch", "torchvision", "transformers"),
}


def client(address: str, words: list[str]) -> int:
    """Have the server run a command; its exit code, or minus the signal that ended it."""
    from contextlib import suppress

    streams = [number for number in range(3) if _is_open(number)]
    request = {"words": words, "cwd": os.getcwd(), "environment": dict(os.environ), "streams": streams}
    passed = {number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, passed)
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as answers:
        connection.connect(address)
        socket.send_fds(connection, [b"0"], streams)
        connection.sendall(json.dumps(request).encode() + _ENDS)
        child = int(answers.readline())

        def pass_on(number: int, _frame: object) -> None:
            with suppress(ProcessLookupError):  # it has ended
                os.kill(child, number)

        for number in passed:
            signal.signal(number, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
        code = int(answers.readline())
    for number in passed:
        signal.signal(number, signal.SIG_DFL)
    return code


def _is_open(stream: int) -> bool:
    try:
        os.fstat(stream)
    except OSError:
        return False
    return True


def _receive(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(_ENDS):
        part = connection.recv(1 << 16)
        if not part:
            break
        data += part
    return data


def serve(address: str) -> None:
    """Fork a process for each command until standard input ends; import what earlier ones had to."""
    import select
    from contextlib import suppress

    _write_executable(address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that watch over commands
    known = set(sys.modules)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        while True:
            ready, _, _ = select.select([listening, 0], [], [])
            if 0 in ready:
                return
            connection, _ = listening.accept()
            with connection, suppress(OSError, ValueError):  # of one that was killed before it had said all
                kind, streams, _, _ = socket.recv_fds(connection, 1, 3)
                if kind == b"0":
                    if not os.fork():
                        try:
                            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                            listening.close()
                            _watch(connection, streams, address, known)
                        finally:
                            os._exit(1)
                    for stream in streams:
                        os.close(stream)
                elif kind == b"1":
                    _learn(json.loads(_receive(connection)), known)


def _executable(address: str) -> str:
    return f"{address}.python"


def _write_executable(address: str) -> None:
    """A Python for commands that start workers: one that has this server run those of the program."""
    python, server = shlex.quote(sys.executable), shlex.join([os.path.abspath(__file__), "run", address])
    with open(_executable(address), "w") as file:
        file.write('#!/bin/sh\n[ "$1" = -u ] && shift\nif [ "$1 $2" = "-m realign_cli" ]; then\n    shift 2\n')
        file.write(f'    exec {python} {server} "$@"\nfi\nexec {python} "$@"\n')
    os.chmod(_executable(address), 0o755)


def _learn(names: list[str], known: set[str]) -> None:
    import gc
    import importlib
    from contextlib import suppress

    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    known.update(names, sys.modules)
    gc.freeze()  # else every process goes through all objects of the libraries, which copies their memory


def _watch(connection: socket.socket, streams: list[int], address: str, known: set[str]) -> None:
    """Fork the command, wait for it and tell the client how it ended; it does not outlive the client."""
    import select
    from contextlib import suppress

    request = json.loads(_receive(connection))
    child = os.fork()
    if not child:
        connection.close()
        _be(request, streams, address, known)
    for stream in streams:
        os.close(stream)
    with suppress(BrokenPipeError):  # the client was killed
        connection.sendall(str(child).encode() + _ENDS)
    ended = os.pidfd_open(child)
    if ended not in select.select([connection, ended], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(BrokenPipeError):
        connection.sendall(str(code).encode() + _ENDS)
    os._exit(0)


def _be(request: dict[str, object], streams: list[int], address: str, known: set[str]) -> None:
    """Become `python -m realign_cli`, and tell the server at the end what had to be imported."""
    code = 70
    try:
        given = dict(zip(request["streams"], streams, strict=True))  # type: ignore[call-overload]
        for number in range(3):
            if number in given:
                os.dup2(given[number], number)
                os.close(given[number])
            else:
                os.close(number)
        os.chdir(str(request["cwd"]))
        before = {os.path.dirname(__file__), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
        os.environ.clear()
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        files = [open(number, mode) if number in given else None for number, mode in enumerate("rww")]  # noqa: SIM115
        sys.stdin, sys.stdout, sys.stderr = files
        if sys.stderr and not sys.stderr.isatty():
            sys.stderr.reconfigure(line_buffering=True)
        sys.executable = _executable(address)
        sys.argv = ["realign", *request["words"]]  # type: ignore[misc]
        own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:] = [*filter(None, own), *(path for path in sys.path[1:] if path not in before)]

        from realign_cli.app import app

        try:
            app(prog_name="realign")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        for file in filter(None, (sys.stdout, sys.stderr)):
            file.flush()
        new = [name for name in set(sys.modules) - known if name.split(".")[0] in _SLOW]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            connection.sendall(b"1" + json.dumps(sorted(new)).encode() + _ENDS)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        ended = client(sys.argv[2], sys.argv[3:])
        if ended < 0:
            os.kill(os.getpid(), -ended)
        sys.exit(ended)
