"""A command and its end: in bubblewrap and without it, over a plain directory in the place of a mount."""

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from goexfs.session import children, process, processes
from goexfs.session.children import Command
from goexfs.session.errors import CommandNotFound, SandboxError
from goexfs.session.sandbox import Sandbox
from tests.support.commands import CHECKOUT, eventually


@pytest.fixture(params=["sandbox", "plain"])
def make(request: pytest.FixtureRequest, area: Path):
    base, mount = area / "base", area / "mount"
    base.mkdir()
    mount.mkdir()
    boxed = request.param == "sandbox"

    def command(*argv: str, **streams) -> Command:
        sandbox = Sandbox(os.fsencode(base), os.fsencode(mount)) if boxed else None
        env = {**os.environb, b"GOEXFS_RUN": b"r-test-%d" % os.getpid()}
        cwd = os.fsencode(base if boxed else mount)
        return Command(tuple(map(os.fsencode, argv)), cwd, env, f"r-test-{os.getpid()}", sandbox, **streams)

    return command


def wait_for(path: Path) -> None:
    assert eventually(path.exists, within=10), path


def in_a_while(action, *args, when: Path) -> threading.Thread:
    """Do something once a file exists, which the command makes when it is ready."""

    def wait_and_act() -> None:
        wait_for(when)
        action(*args)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def test_exit_status_is_the_commands(make) -> None:
    assert process.run(make("sh", "-c", "exit 7")) == (7, None)
    assert process.run(make("sh", "-c", "kill -SEGV $$")).status == 128 + signal.SIGSEGV
    assert process.run(make("true")).status == 0


def test_works_in_the_mount_and_sees_it_at_its_place(make, area: Path) -> None:
    assert process.run(make("sh", "-c", "pwd > here")).status == 0
    assert (area / "mount/here").exists()
    assert not (area / "base/here").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_for_goexfs_reaches_the_command(make, area: Path, number: int) -> None:
    script = f"trap 'echo got >> got; exit 9' {number}; touch ready; while :; do sleep 0.02; done"
    waker = in_a_while(os.kill, os.getpid(), number, when=area / "mount/ready")
    ended = process.run(make("sh", "-c", script))
    waker.join()
    assert ended.status == 9
    assert ended.signal == (number if number in process.DEADLY else None)
    assert (area / "mount/got").read_text() == "got\n"


def test_a_signal_at_once_is_not_lost(make) -> None:
    """Sent while bubblewrap and the launcher are still on the way."""

    def send_when_caught() -> None:
        while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # before that it would end the tests
            time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send_when_caught)
    sender.start()
    started = time.monotonic()
    assert process.run(make("sleep", "20")).status == 128 + signal.SIGTERM
    sender.join()
    assert time.monotonic() - started < 10


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(make, area: Path) -> None:
    script = "trap '' TERM; touch ready; while :; do sleep 0.02; done"
    waker = in_a_while(os.kill, os.getpid(), signal.SIGTERM, when=area / "mount/ready")
    started = time.monotonic()
    ended = process.run(make("sh", "-c", script), grace=0.5)
    waker.join()
    assert ended == (128 + signal.SIGKILL, signal.SIGTERM)
    assert 0.5 <= time.monotonic() - started < 8


def test_a_time_limit_kills(make) -> None:
    with pytest.raises(TimeoutError):
        process.run(make("sleep", "30"), timeout=0.3)


def test_what_stays_in_the_background_is_killed(make, area: Path) -> None:
    script = """
import os, sys, time
if os.fork():
    while not os.path.exists('pid'): time.sleep(.01)
    sys.exit(3)
os.setsid()
if os.fork(): os._exit(0)
open('tmp', 'w').write(str(os.getpid()))
os.rename('tmp', 'pid')
while True:
    open('beat', 'a').write('x'); time.sleep(.01)
"""
    assert process.run(make("/usr/bin/python3", "-c", script)).status == 3
    size = (area / "mount/beat").stat().st_size if (area / "mount/beat").exists() else 0
    time.sleep(0.1)
    assert not (area / "mount/beat").exists() or (area / "mount/beat").stat().st_size == size


def test_from_another_thread(make) -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(process.run(make("sh", "-c", "exit 5"))))
    thread.start()
    thread.join(20)
    assert found == [(5, None)]


def test_signal_handlers_and_masks_are_put_back(make) -> None:
    before = [signal.getsignal(n) for n in process.FORWARDED], signal.pthread_sigmask(signal.SIG_BLOCK, ())
    process.run(make("true"))
    assert before == ([signal.getsignal(n) for n in process.FORWARDED], signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_the_command_starts_with_default_signals_and_no_stray_descriptor(make, area: Path) -> None:
    script = """
import os
open('out', 'w').write(open('/proc/self/status').read())
open('fds', 'w').write(repr(sorted(map(int, os.listdir('/proc/self/fd')))))
"""
    process.run(make("/usr/bin/python3", "-c", script))
    status = dict(line.split(":\t", 1) for line in (area / "mount/out").read_text().splitlines() if ":\t" in line)
    ignored = int(status["SigIgn"], 16)
    assert not any(ignored >> (n - 1) & 1 for n in children.SHIELDED)
    assert int(status["SigBlk"], 16) == 0
    assert [fd for fd in eval((area / "mount/fds").read_text()) if fd > 2] in ([3], [3, 4])


def test_a_signal_that_was_ignored_stays_ignored(make, area: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process.run(make("sh", "-c", "grep SigIgn /proc/self/status > out"))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert int((area / "mount/out").read_text().split()[1], 16) >> (signal.SIGHUP - 1) & 1


def test_without_gnu_env(make, area: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_env_sets_signals", lambda _env: False)
    script = "trap 'exit 9' TERM; touch ready; while :; do sleep 0.02; done"
    waker = in_a_while(os.kill, os.getpid(), signal.SIGTERM, when=area / "mount/ready")
    assert process.run(make("sh", "-c", script)).status == 9
    waker.join()


def test_an_equals_sign_in_the_name_of_the_program(make, area: Path) -> None:
    program = area / "mount/a=b"
    program.write_text("#!/bin/sh\nexit 6\n")
    program.chmod(0o755)
    assert process.run(make("./a=b")).status == 6


@pytest.mark.parametrize("times", [1, process.ATTEMPTS])
def test_a_socket_of_the_host_that_goes_away_meanwhile(area: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The command starts once, with what is there then; when that never comes true, it is said."""
    base, lists = area / "base", [[b"/usr/lib/went/away"]] * times
    (base / "mount").mkdir(parents=True)
    found = Sandbox.listening
    monkeypatch.setattr(Sandbox, "listening", lambda self: lists.pop() if lists else found(self))
    box = Sandbox(os.fsencode(base), os.fsencode(base / "mount"))
    env = {**os.environb, b"GOEXFS_RUN": b"r-test-%d" % os.getpid()}
    script = b"grep SigBlk /proc/self/status >> made"
    command = Command((b"sh", b"-c", script), os.fsencode(base), env, f"r-test-{os.getpid()}", box)
    if times == 1:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert process.run(command).status == 0
        assert (base / "mount/made").read_text() == "SigBlk:\t0000000000000000\n"
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    else:
        with pytest.raises(SandboxError, match="a socket of the host went away"):
            process.run(command)
        assert not (base / "mount/made").exists()


def test_not_found_without_a_sandbox(area: Path) -> None:
    with pytest.raises(CommandNotFound, match="no-such-command"):
        process.run(Command((b"no-such-command",), os.fsencode(area), os.environb, "r", None))


TERMINAL = """
import os, sys
from goexfs.session import process
from goexfs.session.children import Command
from goexfs.session.sandbox import Sandbox
base, mount, script, boxed = map(os.fsencode, sys.argv[1:])
sandbox = Sandbox(base, mount) if boxed == b"sandbox" else None
env = {**os.environb, b"GOEXFS_RUN": b"r"}
command = Command((b"sh", b"-c", script), base if sandbox else mount, env, "r", sandbox)
print("ended", *process.run(command, grace=2), flush=True)
"""


class Terminal:
    """A process with a terminal of its own."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, env)
        self.output = b""

    def expect(self, text: bytes, within: float = 15) -> None:
        deadline = time.monotonic() + within
        while text not in self.output:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, (text, self.output)
            try:
                self.output += os.read(self.fd, 4096)
            except OSError:
                assert text in self.output, (text, self.output)

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def close(self) -> int:
        try:
            while data := os.read(self.fd, 4096):
                self.output += data
        except OSError:
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture(params=["sandbox", "plain"])
def terminal(request: pytest.FixtureRequest, area: Path):
    for name in ("base", "mount"):
        (area / name).mkdir()

    def start(script: str) -> Terminal:
        argv = [sys.executable, "-c", TERMINAL, str(area / "base"), str(area / "mount"), script, request.param]
        return Terminal(argv, {**os.environ, "PYTHONPATH": str(CHECKOUT)})

    return start


def test_ctrl_c_reaches_the_command_once(terminal) -> None:
    tty = terminal("trap 'echo INTERRUPTED' INT; echo ready; sleep 3; sleep 0.3; exit 4")
    tty.expect(b"ready")
    tty.type(b"\x03")
    tty.expect(b"ended 4 None")
    assert tty.close() == 0
    assert tty.output.count(b"INTERRUPTED") == 1


def test_ctrl_c_ends_a_command_that_does_not_handle_it(terminal) -> None:
    tty = terminal("echo ready; exec sleep 20")
    tty.expect(b"ready")
    tty.type(b"\x03")
    tty.expect(b"ended 130 None")
    assert tty.close() == 0


def test_ctrl_backslash_reaches_the_command_once(terminal) -> None:
    tty = terminal("trap 'echo QUITTING' QUIT; echo ready; sleep 3; sleep 0.3; exit 4")
    tty.expect(b"ready")
    tty.type(b"\x1c")
    tty.expect(b"ended 4 None")
    tty.close()
    assert tty.output.count(b"QUITTING") == 1


def test_the_terminal_is_usable_and_given_back(terminal) -> None:
    """A command that leaves the terminal raw and in another group, and is killed, does not spoil it."""
    tty = terminal("stty raw -echo; stty size; kill -KILL $$")
    tty.expect(b"ended 137 None\r\n")  # \r\n: output processing is on again
    tty.close()


def test_a_closed_terminal_ends_the_command(terminal, area: Path) -> None:
    tty = terminal("trap 'echo hup > hup; exit 1' HUP; touch ready; while :; do sleep 0.02; done")
    wait_for(area / "mount/ready")
    os.close(tty.fd)
    assert eventually((area / "mount/hup").exists, within=10)
    os.waitpid(tty.pid, 0)


@pytest.mark.parametrize("box", ["sandbox", "plain"])
def test_stopping_and_going_on(box: str, area: Path) -> None:
    """Job control of a shell: Ctrl-Z stops goexfs with its command, fg goes on."""
    for name in ("base", "mount"):
        (area / name).mkdir()
    (area / "program.py").write_text(TERMINAL)
    tty = Terminal(["bash", "--norc", "--noprofile", "-i"], {**os.environ, "PYTHONPATH": str(CHECKOUT), "PS1": "$ "})
    script = "echo rea''dy; sleep 2; echo af''ter; exit 5"
    tty.type(f'{sys.executable} {area}/program.py {area}/base {area}/mount "{script}" {box}\n'.encode())
    tty.expect(b"ready")
    time.sleep(0.5)  # dash waits for ever for a child that is stopped between vfork and exec, here as elsewhere
    tty.type(b"\x1a")
    tty.expect(b"Stopped")
    time.sleep(2)
    assert b"after" not in tty.output.partition(b"ready")[2]
    tty.type(b"fg\n")
    tty.expect(b"ended 5 None")
    tty.type(b"exit\n")
    assert tty.close() == 0


@pytest.mark.parametrize("shell", ["sh", "bash --norc --noprofile"])
def test_an_interactive_shell_ends_with_its_own_status(shell: str, area: Path) -> None:
    """On its way out it gives the terminal back to the group it was started in, which must exist in the sandbox."""
    for name in ("base", "mount"):
        (area / name).mkdir()
    argv = [sys.executable, "-c", TERMINAL, str(area / "base"), str(area / "mount"), f"exec {shell} -i", "sandbox"]
    tty = Terminal(argv, {**os.environ, "PYTHONPATH": str(CHECKOUT), "PS1": "$ "})
    tty.expect(b"$ ")
    tty.type(b"exit 3\n")
    tty.expect(b"ended 3 None")
    assert tty.close() == 0


def test_killed_goexfs_takes_the_sandbox_along(area: Path) -> None:
    for name in ("base", "mount"):
        (area / name).mkdir()
    script = "echo $$ > pid; while :; do echo x >> beat; sleep 0.02; done"
    argv = [sys.executable, "-c", TERMINAL, str(area / "base"), str(area / "mount"), script, "sandbox"]
    popen = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(CHECKOUT)})
    wait_for(area / "mount/beat")
    popen.kill()
    popen.wait()

    def quiet() -> bool:
        size = (area / "mount/beat").stat().st_size
        time.sleep(0.1)
        return (area / "mount/beat").stat().st_size == size

    assert eventually(quiet, within=5)


def test_reading_processes() -> None:
    child = subprocess.Popen(["sleep", "10"])
    try:
        assert child.pid in processes.children(os.getpid())
        assert child.pid in list(processes._children_by_parent(os.getpid()))
        assert processes.status_field(child.pid, "PPid") == str(os.getpid())
        assert not processes.ignores_all(child.pid, [signal.SIGTERM])
    finally:
        child.kill()
        child.wait()
    assert processes.status_field(child.pid, "PPid") is None
    assert processes.open_pid(child.pid) == -1
