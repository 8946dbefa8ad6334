"""What is measured of a tunnel that is up: all through its inner addresses."""

import json
import math
import re
import statistics
import subprocess
import time

from hosts import Failure, end_all, says, wait

LOSS = 0.01
#: How near the search for the highest rate comes, as a ratio.
NEAR = 1.06
SIZES = (64, 1200)

#: Key, heading, unit, digits, and whether more is better.
METRICS = {
    "tcp_out": ("TCP, client to server", "Gbit/s", 2, True),
    "tcp_in": ("TCP, server to client", "Gbit/s", 2, True),
    "tcp_four": ("TCP, 4 streams", "Gbit/s", 2, True),
    "udp_64": ("UDP, 64 bytes, ≤1 % loss", "packets/s", 0, True),
    "udp_1200": ("UDP, 1200 bytes, ≤1 % loss", "packets/s", 0, True),
    "flood_64": ("delivered of a flood, 64 bytes", "packets/s", 0, True),
    "flood_1200": ("delivered of a flood, 1200 bytes", "packets/s", 0, True),
    "ping_p50": ("ping p50, idle", "ms", 3, False),
    "ping_p99": ("ping p99, idle", "ms", 3, False),
    "loaded_p99": ("ping p99 while a TCP stream runs", "ms", 3, False),
    "cpu_sender": ("CPU of the sending end", "s/GB", 2, False),
    "cpu_receiver": ("CPU of the receiving end", "s/GB", 2, False),
    "cpu": ("CPU, both ends", "s/GB", 2, False),
    "memory_server": ("memory, server", "MB", 1, False),
    "memory_client": ("memory, client", "MB", 1, False),
}


class Plan:
    """How long each run takes, in seconds, and how many there are."""

    def __init__(self, seconds, quick):
        self.tcp = seconds
        self.flood = 1 if quick else 2
        self.probe = 1
        self.probes = 6 if quick else 10
        self.pings = 100 if quick else 300
        self.retry = not quick


class Measurement:
    """All metrics of one tunnel in one round."""

    def __init__(self, bed, target, plan, buffer, say):
        self.bed, self.target, self.plan, self.buffer = bed, target, plan, buffer
        self.say = say
        self.values, self.failures = {}, []

    def all(self):
        for part in (self.idle, self.tcp, self.loaded, self.udp, self.memory):
            try:
                self.bed.check()
                part()
            except (Failure, OSError) as failure:
                self.failures.append(f"{part.__name__}: {failure}")
                self.say(f"    failed: {part.__name__}: {failure}")
        return self.values

    def keep(self, **values):
        self.values.update(values)
        for key, value in values.items():
            heading, unit, digits, _ = METRICS[key]
            self.say(f"    {heading}: {value:,.{digits}f} {unit}".replace("inf ms", "lost"))

    def idle(self):
        times = self.ping(self.plan.pings)
        self.keep(ping_p50=percentile(times, 50), ping_p99=percentile(times, 99))

    def tcp(self):
        client, server = self.bed.client, self.bed.server
        senders, receivers, gigabytes = 0, 0, 0
        for key, words, sender, receiver in (("tcp_out", [], client, server),
                                             ("tcp_in", ["-R"], server, client)):
            before = sender.cpu(), receiver.cpu()
            received = self.iperf(self.plan.tcp, *words)["sum_received"]
            senders += sender.cpu() - before[0]
            receivers += receiver.cpu() - before[1]
            gigabytes += received["bytes"] / 1e9
            self.keep(**{key: received["bits_per_second"] / 1e9})
        if self.bed.client.processes and gigabytes:
            self.keep(cpu_sender=senders / gigabytes, cpu_receiver=receivers / gigabytes,
                      cpu=(senders + receivers) / gigabytes)
        received = self.iperf(self.plan.tcp, "-P", 4)["sum_received"]
        self.keep(tcp_four=received["bits_per_second"] / 1e9)

    def loaded(self):
        with Server(self) as server:
            stream = server.client(self.plan.tcp + 30)
            time.sleep(1)
            times = self.ping(self.plan.tcp * 100, self.plan.tcp + 2)
            if stream.poll() is not None:
                raise Failure("the TCP stream ended before the pings did")
            end_all([stream])
        self.keep(loaded_p99=percentile(times, 99))

    def udp(self):
        for size in SIZES:
            best, flood = self.highest_rate(size)
            self.keep(**{f"flood_{size}": flood})
            if best is not None:
                self.keep(**{f"udp_{size}": best})

    def memory(self):
        if self.bed.client.processes:
            self.keep(memory_server=self.bed.server.memory(),
                      memory_client=self.bed.client.memory())

    def highest_rate(self, size):
        """Packets per second delivered at most with a loss of at most 1 %, and
        those of a flood, as fast as the sender can."""
        flood = self.datagrams(size, 0, self.plan.flood)
        if flood.loss <= LOSS:
            return flood.delivered, flood.delivered
        best, low, high, rate = None, None, flood.offered, min(flood.delivered, flood.offered * 0.9)
        doubted = False
        for _ in range(self.plan.probes):
            run = self.datagrams(size, rate, self.plan.probe)
            if self.plan.retry and LOSS < run.loss < 10 * LOSS:
                # A hiccup of the machine, perhaps.
                run = min(run, self.datagrams(size, rate, self.plan.probe), key=lambda r: r.loss)
            if run.loss <= LOSS:
                low, best = rate, max(best or 0, run.delivered)
                high = max(high, rate * NEAR)
            else:
                high = min(high, rate)
            if low is None:
                rate /= 2
            elif high / low > NEAR:
                rate = math.sqrt(low * high)
            elif not doubted:
                # The bound may be a hiccup's: once more, well above it.
                doubted, rate, high = True, low * 1.3, flood.offered
            else:
                break
        return best, flood.delivered

    def datagrams(self, size, rate, seconds):
        words = ["-u", "-l", size, "-b", int(rate * size * 8)]
        if self.buffer:
            words += ["-w", self.buffer]
        return Run(self.iperf(seconds, *words), size)

    def iperf(self, seconds, *words):
        """One run with a server of its own, once more if it fails."""
        for last in (False, True):
            try:
                with Server(self) as server:
                    return server.result(seconds, *words)
            except Failure:
                self.bed.check()
                if last:
                    raise

    def ping(self, count, seconds=60, device=None):
        """Round-trip times in ms of up to that many pings, a hundred a second."""
        bound = ["-I", device] if device else []
        command = self.bed.client.within(["ping", "-n", "-i", "0.01", "-c", count, "-w", seconds,
                                          *bound, self.target])
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 10)
        times = [float(time) for time in re.findall(r"time=([\d.]+) ms", done.stdout)]
        sent = re.search(r"(\d+) packets transmitted", done.stdout)
        sent = int(sent.group(1)) if sent else count
        if len(times) < sent / 2:
            raise Failure(f"of {sent} pings {len(times)} came back")
        # What is lost took longer than anything that came back; the last may be on its way.
        return times + [math.inf] * (sent - len(times) - 1)


class Run:
    """What iperf3 says of a run of datagrams."""

    def __init__(self, end, size):
        sent, received = end["sum_sent"], end["sum_received"]
        delivered = received["bytes"] // size
        self.offered = sent["packets"] / sent["seconds"]
        self.delivered = delivered / sent["seconds"]
        self.loss = 1 - delivered / sent["packets"] if sent["packets"] else 1.0


class Server:
    """An iperf3 server for one client."""

    def __init__(self, measurement):
        self.measurement, self.process = measurement, None

    def __enter__(self):
        host = self.measurement.bed.server
        self.process = host.start("iperf3", "-s", "-1", "--forceflush", tool=True)
        wait(lambda: says(self.process, "listening"), "the iperf3 server", [host])
        return self

    def __exit__(self, *_):
        end_all([self.process])

    def command(self, seconds, *words):
        return ["iperf3", "-c", self.measurement.target, "-t", seconds, "-J",
                "--connect-timeout", 5000, *words]

    def client(self, seconds):
        return self.measurement.bed.client.start(*self.command(seconds), tool=True)

    def result(self, seconds, *words):
        command = self.measurement.bed.client.within(self.command(seconds, *words))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20)
            said = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise Failure(f"iperf3 {' '.join(map(str, words))}: {error}") from error
        if "error" in said or "sum_received" not in said.get("end", {}):
            raise Failure(f"iperf3 {' '.join(map(str, words))}: {said.get('error', 'no result')}")
        return said["end"]


def percentile(values, percent):
    """The least value that is not below this part of them (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def medians(rounds):
    """The median of each metric over the rounds that have it."""
    return {key: statistics.median(having) for key in METRICS
            if (having := [values[key] for values in rounds if key in values])}
