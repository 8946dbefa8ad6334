"""Two hosts on one machine: network namespaces with a cable between them.

Whatever is started on a host ends with it, and nothing stays behind.
"""

import os
import shutil
import signal
import subprocess
import time

PREFIX = "compare-"
WIREGUARD_SOCKETS = "/run/wireguard"
TICK = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """Something that one tunnel's measurement cannot go on without."""


def run(*command, **options):
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          **options)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Failure(f"{' '.join(map(str, command))}: {' '.join(said)}")
    return done.stdout


class Host:
    """One end: .1 is the server, .2 the client."""

    def __init__(self, name, number, folder):
        self.name = name
        self.namespace = PREFIX + name
        self.device = PREFIX + name
        self.number = number
        self.outer = f"10.66.0.{number}"
        self.inner = f"10.9.0.{number}"
        self.folder = folder
        self.processes = []
        self.tools = []

    def path(self, name):
        return os.path.join(self.folder, f"{self.name}-{name}")

    def write(self, name, text):
        """A file of this host that nobody else may read."""
        path = self.path(name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        return path

    def within(self, command):
        return ["ip", "netns", "exec", self.namespace, *(str(word) for word in command)]

    def run(self, *command, **options):
        return run(*self.within(command), **options)

    def ip(self, *words):
        run("ip", "-n", self.namespace, *words)

    def start(self, *command, environment=None, tool=False):
        """Starts a process of the tunnel, or a tool that is not counted to it."""
        name = os.path.basename(str(command[0]))
        kept = self.tools if tool else self.processes
        log = self.path(f"{name}-{len(kept)}.log")
        with open(log, "w") as output:
            process = subprocess.Popen(
                self.within(command), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "RUST_BACKTRACE": "0", **(environment or {})})
        process.name, process.log = name, log
        kept.append(process)
        return process

    def check(self):
        """Fails if a process of the tunnel has ended, and says its last words."""
        for process in self.processes:
            if process.poll() is not None:
                with open(process.log, errors="replace") as log:
                    said = [line.strip() for line in log if line.strip()][-1:]
                raise Failure(f"{process.name} on the {self.name} ended with "
                              f"{process.returncode}: {' '.join(said)}")

    def wait_for_device(self, device):
        wait(lambda: device_exists(self, device), f"device {device} on the {self.name}", [self])

    def configure(self, device, mtu):
        """Gives a tunnel's device its address and takes it up."""
        self.wait_for_device(device)
        self.ip("addr", "add", f"{self.inner}/24", "dev", device)
        self.ip("link", "set", device, "mtu", mtu, "up")

    def cpu(self):
        """Seconds of processor time that the tunnel's processes have used."""
        total = 0
        for process in self.processes:
            with open(f"/proc/{process.pid}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def memory(self, which="VmHWM"):
        """Megabytes that the tunnel's processes had resident at most, or have (VmRSS)."""
        total = 0
        for process in self.processes:
            with open(f"/proc/{process.pid}/status") as status:
                total += sum(int(line.split()[1]) for line in status if line.startswith(which))
        return total / 1000

    def end(self):
        end_all(self.tools + self.processes)
        self.tools, self.processes = [], []


def device_exists(host, device):
    return subprocess.run(["ip", "-n", host.namespace, "link", "show", device],
                          capture_output=True).returncode == 0


def wait(condition, what, hosts=(), seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        for host in hosts:
            host.check()
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not there after {seconds} s")
        time.sleep(0.05)


def says(process, word):
    """Whether a process has printed a word so far."""
    with open(process.log, errors="replace") as log:
        return word in log.read()


def end_all(processes, patience=3):
    """Ends processes, with force those that do not listen."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                try:
                    os.killpg(process.pid, how)
                except ProcessLookupError:
                    pass
        deadline = time.monotonic() + patience
        for process in processes:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass


def remove(name):
    """Removes a host and what still runs in it."""
    namespace = PREFIX + name
    if os.path.exists(f"/run/netns/{namespace}"):
        listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
        for pid in listed.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        subprocess.run(["ip", "netns", "del", namespace], capture_output=True)
    shutil.rmtree(f"/etc/netns/{namespace}", ignore_errors=True)
    for place in (WIREGUARD_SOCKETS, "/var/run/wireguard"):
        try:
            os.unlink(os.path.join(place, f"{PREFIX}{name}.sock"))
        except OSError:
            pass


class Bed:
    """The two hosts, new for every tunnel: a veth pair of MTU 1500."""

    def __init__(self, folder, programs, ovpn_arguments=()):
        self.folder = folder
        self.programs = programs
        self.ovpn_arguments = list(ovpn_arguments)
        self.server = Host("server", 1, folder)
        self.client = Host("client", 2, folder)
        self.hosts = (self.server, self.client)

    def __enter__(self):
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.makedirs(self.folder, mode=0o700)
            for host in self.hosts:
                remove(host.name)
                run("ip", "netns", "add", host.namespace)
                host.ip("link", "set", "lo", "up")
            run("ip", "link", "add", "eth0", "netns", self.server.namespace, "type", "veth",
                "peer", "name", "eth0", "netns", self.client.namespace)
            for host in self.hosts:
                host.ip("addr", "add", f"{host.outer}/24", "dev", "eth0")
                host.ip("link", "set", "eth0", "mtu", "1500", "up")
            wait(lambda: all("LOWER_UP" in run("ip", "-n", host.namespace, "link", "show", "eth0")
                             for host in self.hosts), "the cable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for host in self.hosts:
            host.end()
        for host in self.hosts:
            remove(host.name)

    def other(self, host):
        return self.client if host is self.server else self.server

    def program(self, name):
        return self.programs[name]

    def check(self):
        for host in self.hosts:
            host.check()

    def wait_for_answer(self, address, device=None):
        """Waits until the client can reach an address, and so the tunnel is up."""
        def answers():
            bound = ["-I", device] if device else []
            command = self.client.within(["ping", "-c", "1", "-W", "1", *bound, address])
            return subprocess.run(command, capture_output=True).returncode == 0
        wait(answers, f"an answer from {address} through the tunnel", self.hosts)
