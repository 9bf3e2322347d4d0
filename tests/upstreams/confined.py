"""Runs a program in a network and process namespace of its own, and lets loopback connections in.

For servers whose ports cannot be chosen. Owns the namespaces, the relay from listening sockets that the caller made
outside to ports inside, and the end: when the caller closes our standard input, or dies, the program and all its
children are gone, and so are the namespaces; of a caller that died the folder is removed, too. Standard library only.

usage: confined.py FOLDER LISTENING_FD:PORT [LISTENING_FD:PORT …] -- PROGRAM [ARGUMENT …]
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from typing import Any

CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
REFUSED = 77
"""Our exit code when the kernel lets us make no namespaces."""

_libc = ctypes.CDLL(None, use_errno=True)


def leave_the_network() -> None:
    """What this process opens from now on is inside; the next child is the first process of its own namespace."""
    if _libc.unshare(CLONE_NEWNET | CLONE_NEWPID):
        print(f"namespaces are refused: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(REFUSED)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except OSError:
        sink.close()


async def relay(listening: socket.socket, port: int) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inside_reader, inside_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(pump(reader, inside_writer), pump(inside_reader, writer))
        for end in (writer, inside_writer):
            end.close()

    return await asyncio.start_server(serve, sock=listening)


async def answers(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def keep(doors: dict[socket.socket, int], program: subprocess.Popen[bytes]) -> None:
    """Until the program ends, or our standard input does."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(os.pidfd_open(program.pid), over.set)
    loop.add_reader(sys.stdin, lambda: None if os.read(0, 4096) else over.set())
    ended: asyncio.Future[Any] = asyncio.ensure_future(over.wait())
    up: asyncio.Future[Any] = asyncio.gather(*(answers(port) for port in doors.values()))
    await asyncio.wait({ended, up}, return_when=asyncio.FIRST_COMPLETED)
    if over.is_set():
        up.cancel()
        return
    servers = [await relay(listening, port) for listening, port in doors.items()]
    print("up", flush=True)
    await ended
    for server in servers:
        server.close()


def main(said: list[str]) -> int:
    cut = said.index("--")
    folder, caller = said[0], os.getppid()
    pairs = [tuple(map(int, pair.split(":"))) for pair in said[1:cut]]
    doors = {socket.socket(fileno=descriptor): port for descriptor, port in pairs}
    leave_the_network()
    program = subprocess.Popen(
        said[cut + 1 :], stdin=subprocess.DEVNULL, stdout=2, preexec_fn=die_with_parent, close_fds=True
    )
    try:
        asyncio.run(keep(doors, program))
    finally:
        program.terminate()
        try:
            program.wait(5)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
    if os.getppid() != caller:
        shutil.rmtree(folder)
    return program.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
