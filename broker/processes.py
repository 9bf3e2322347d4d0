"""What we ask of the operating system about processes.

Owns: ending with the parent, leaving root, finding every relative of a run and ending it, and the watchdog
(`python -m broker.processes MARK`) that does so when its parent is gone. What is started, and when it is
started again, is `embedded`'s and `supervisor`'s.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

MARK = "SCAIKEY_RUN_MARK"
"""Environment variable that every relative of one run inherits, across forks, sessions and process groups."""

SOURCE_ROOT = Path(__file__).resolve().parent.parent

_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Account:
    """Who a server runs as when we are root."""

    uid: int
    gid: int


def server_account() -> Account | None:
    """None unless we are root, which PostgreSQL refuses to be; then an account without rights."""
    if os.geteuid() != 0:
        return None
    for name in ("scaikey", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid)
    raise OSError("the embedded servers do not run as root: make an account named scaikey, or start as another user")


def launch(
    command: Sequence[str | Path],
    *,
    death_signal: int,
    account: Account | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    output: int | IO[Any] | None = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, which gets `death_signal` when this process dies (Linux).

    Call it from the main thread: the kernel takes the end of the calling thread for the end of the parent.
    """
    parent = os.getpid()

    def become_child() -> None:
        if account is not None:
            _leave_root(account)
        _die_with(parent, death_signal)

    return subprocess.Popen(
        [os.fspath(part) for part in command],
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=env,
        start_new_session=True,
        preexec_fn=become_child,  # our callers have a single thread
    )


def python(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours in this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def python_environment(**more: str) -> dict[str, str]:
    """This environment, so that `python` finds our modules wherever it is started."""
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, **more, "PYTHONPATH": f"{SOURCE_ROOT}{os.pathsep}{path}" if path else str(SOURCE_ROOT)}


def give(directory: Path, account: Account) -> None:
    """Make the account the owner of the whole directory, unless it is."""
    if directory.stat().st_uid == account.uid:
        return
    for folder, _, names in os.walk(directory, topdown=False):  # the directory last: it says that all is done
        for name in (*names, ""):
            os.lchown(os.path.join(folder, name), account.uid, account.gid)


def working_in(directory: Path, name: str) -> list[psutil.Process]:
    """The processes of that name whose current directory this is."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.name() == name and process.cwd() == str(directory.resolve()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def relatives(mark: str) -> list[psutil.Process]:
    """Every process of the run: those that carry its mark, and whoever shares a session with one of them."""
    found: dict[int, psutil.Process] = {}
    sessions: set[int] = set()
    others: list[tuple[int, psutil.Process]] = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            session = os.getsid(process.pid)
            marked = process.environ().get(MARK) == mark
        except (OSError, psutil.Error):
            continue
        if marked:
            found[process.pid] = process
            sessions.add(session)
        else:
            others.append((session, process))
    found.update((process.pid, process) for session, process in others if session in sessions)
    return [process for process in found.values() if is_alive(process)]


def session(leader: int) -> list[psutil.Process]:
    """The living processes of a session, by the process id of whoever began it."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and is_alive(process):
                found.append(process)
        except OSError:
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        running: bool = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return running
    except psutil.Error:
        return False


def end_relatives(mark: str, grace: float) -> None:
    """SIGTERM to the leaders of the run, `grace` seconds for all of it to end, then SIGKILL until nothing is left."""
    family = relatives(mark)
    for process in family:
        if _leads_its_session(process):
            _send(process, signal.SIGTERM)
    _wait(lambda: not relatives(mark), grace)
    deadline = time.monotonic() + 5.0
    while (family := relatives(mark)) and time.monotonic() < deadline:  # one may fork while we look
        end(family)


def end(processes: Sequence[psutil.Process], *steps: tuple[int, float]) -> None:
    """Send each signal in turn to those still alive, and give them that many seconds; the last word is SIGKILL."""
    for signum, seconds in (*steps, (signal.SIGKILL, 5.0)):
        alive = [process for process in processes if is_alive(process)]
        for process in alive:
            _send(process, signum)
        # A zombie has ended, whether or not its parent ever asks.
        if _wait(lambda: not any(map(is_alive, processes)), seconds):
            return


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _send(process: psutil.Process, signum: int) -> None:
    try:
        process.send_signal(signum)
    except psutil.Error:
        return


def _leads_its_session(process: psutil.Process) -> bool:
    try:
        return os.getsid(process.pid) == int(process.pid)
    except OSError:
        return False


def _die_with(parent: int, signum: int) -> None:
    if sys.platform != "linux":
        return
    _libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def _leave_root(account: Account) -> None:
    """Become the account, keeping one right of root where the kernel grants it: to pass closed directories.

    Data directories are private to root, and a virtual environment may live below /root; opening those to
    an account would be worse than a server that still reads what its starter reads.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(account.gid)
    os.setuid(account.uid)
    if sys.platform == "linux":
        right = 1 << _CAP_DAC_OVERRIDE
        header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
        _libc.capset(header, struct.pack("=6I", right, right, right, 0, 0, 0))  # effective, permitted, inheritable
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


def _watch(mark: str) -> None:
    """Wait for the end of the parent, whose pipe is our standard input, then end what it left."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    while os.read(0, 1024):
        pass
    end_relatives(mark, grace=4.0)


if __name__ == "__main__":
    _watch(sys.argv[1])
