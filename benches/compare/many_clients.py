#!/usr/bin/env python3
"""Compares a server of many clients with wireguard-go's, in one run on this machine.

As root, on Debian. Each client is a process with a device of its own; all are in one
network namespace. README.md says what is measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from compare import REPOSITORY, alone, say  # noqa: E402
from hosts import Bed, Failure, end_all, run, says, wait  # noqa: E402
from measure import Measurement, Plan, percentile  # noqa: E402
from peers import Peers  # noqa: E402
from tunnels import NAME, PORT, serve, show  # noqa: E402

DEVICE = "many"
INNER = "10.9.0.1"
#: Clients that send, or receive, at the same time.
BUSY = 10

#: Key, heading, unit.
METRICS = {
    "memory_idle": ("memory, all connected", "MB"),
    "memory": ("memory, at most", "MB"),
    "tcp_up": (f"TCP, up to {BUSY} clients to the server", "Gbit/s"),
    "tcp_down": (f"TCP, the server to up to {BUSY} clients", "Gbit/s"),
    "cpu_up": ("server's CPU for that, up", "s/GB"),
    "cpu_down": ("server's CPU for that, down", "s/GB"),
    "ping_p50": ("ping p50", "ms"),
    "ping_p99": ("ping p99", "ms"),
}


def ouroboros(bed, clients):
    environment = serve(bed, lambda host: ["type", "udp", "name", "udp", "ip", host.outer])
    for number in range(clients):
        bed.client.start(bed.program("ovpn"), "-n", NAME, "--ip", "server", "--crypt",
                         "--dev", f"{DEVICE}{number}", environment=environment["client"])


def wireguard_go(bed, clients):
    server = key_pair()
    keys = [key_pair() for _ in range(clients)]
    interface(bed, bed.server, bed.server.device, server[0], PORT, "".join(
        f"[Peer]\nPublicKey = {public}\nAllowedIPs = {inner(number)}/32\n"
        for number, (_, public) in enumerate(keys)))
    bed.server.configure(bed.server.device, 1420)
    for number, (private, _) in enumerate(keys):
        device = f"{DEVICE}{number}"
        interface(bed, bed.client, device, private, 0,
                  f"[Peer]\nPublicKey = {server[1]}\nAllowedIPs = 10.9.0.0/24\n"
                  f"Endpoint = {bed.server.outer}:{PORT}\n")
        bed.client.ip("addr", "add", f"{inner(number)}/24", "dev", device)
        bed.client.ip("link", "set", device, "mtu", "1420", "up")


def key_pair():
    private = run("wg", "genkey").strip()
    return private, run("wg", "pubkey", input=private).strip()


def interface(bed, host, device, private, port, peers):
    host.start(bed.program("wireguard-go"), "-f", device)
    host.wait_for_device(device)
    wait(lambda: "interface" in show(host, device), "wireguard-go's socket", [host])
    path = host.write(f"{device}.conf", f"[Interface]\nPrivateKey = {private}\n"
                                        f"ListenPort = {port}\n{peers}")
    host.run("wg", "setconf", device, path)


def inner(number):
    return f"10.9.0.{number + 2}"


SERVERS = {"Ouroboros": ouroboros, "wireguard-go": wireguard_go}


def measure(bed, clients, seconds):
    for number in range(clients):
        bed.wait_for_answer(INNER, f"{DEVICE}{number}")
    values = {"memory_idle": bed.server.memory("VmRSS")}
    pings = Measurement(bed, INNER, Plan(seconds, False), None, say).ping(
        300, device=f"{DEVICE}0")
    values["ping_p50"], values["ping_p99"] = percentile(pings, 50), percentile(pings, 99)
    for way, words in (("up", []), ("down", ["-R"])):
        before = bed.server.cpu()
        received = transfer(bed, min(BUSY, clients), seconds, words)
        values[f"tcp_{way}"] = received * 8 / seconds / 1e9
        values[f"cpu_{way}"] = (bed.server.cpu() - before) / (received / 1e9)
    values["memory"] = bed.server.memory()
    return values


def transfer(bed, clients, seconds, words):
    """Bytes that so many streams at once deliver."""
    servers = [bed.server.start("iperf3", "-s", "-1", "--forceflush", "-p", 5300 + number,
                                tool=True) for number in range(clients)]
    try:
        wait(lambda: all(says(server, "listening") for server in servers), "iperf3",
             [bed.server])
        runs = [subprocess.Popen(
            bed.client.within(["iperf3", "-c", INNER, "-p", 5300 + number, "-t", seconds, "-J",
                               "--bind-dev", f"{DEVICE}{number}", *words]),
            stdout=subprocess.PIPE, text=True) for number in range(clients)]
        ends = [json.loads(each.communicate(timeout=seconds + 30)[0]) for each in runs]
    finally:
        end_all(servers)
    failed = [end["error"] for end in ends if "error" in end]
    if failed:
        raise Failure(f"iperf3: {failed[0]}")
    return sum(end["end"]["sum_received"]["bytes"] for end in ends)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clients", type=int, default=100, help="how many (100, at most 250)")
    parser.add_argument("--rounds", type=int, default=3, help="times each is measured (3)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a TCP run (5)")
    parser.add_argument("--no-build", action="store_true", help="use the release build as it is")
    given = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("many_clients: network namespaces and TUN devices need root: run as root")
    lock = alone()  # noqa: F841
    cache = os.path.join(REPOSITORY, "target", "compare")
    peers = Peers(cache, REPOSITORY, say)
    peers.install(["iperf3", "wg", "wireguard-go"])
    if not given.no_build:
        peers.build()
    rounds = {name: [] for name in SERVERS}
    for number in range(1, given.rounds + 1):
        for name, start in SERVERS.items():
            say(f"round {number} of {given.rounds}: {name}")
            with Bed(os.path.join(cache, "many"), peers.programs) as bed:
                # Every client has a way to the server's network.
                for which in ("all", "default"):
                    bed.client.run("sysctl", "-qw", f"net.ipv4.conf.{which}.rp_filter=0")
                try:
                    start(bed, given.clients)
                    rounds[name].append(measure(bed, given.clients, given.seconds))
                except (Failure, OSError, LookupError, ValueError,
                        subprocess.TimeoutExpired) as failure:
                    say(f"    failed: {failure}")
    print(f"\n| {given.clients} clients | " + " | ".join(SERVERS) + " | ratio |")
    print("|---" * (len(SERVERS) + 2) + "|")
    for key, (title, unit) in METRICS.items():
        medians = [statistics.median(each[key] for each in of) if of else None
                   for of in rounds.values()]
        shown = ["-" if median is None else f"{median:.3f}" for median in medians]
        ratio = "-" if None in medians else f"{medians[0] / medians[1]:.2f}"
        print(f"| {title}, {unit} | " + " | ".join(shown) + f" | {ratio} |")
    sys.exit(0 if all(len(of) == given.rounds for of in rounds.values()) else 1)


if __name__ == "__main__":
    main()
