#!/usr/bin/env python3
"""Compares the tunnel with others, side by side on this machine.

As root, on Debian. Installs the peers, starts every tunnel between two hosts
(network namespaces joined by a veth pair of MTU 1500), measures each several
times in turn, and writes a table, a chart and the raw figures. README.md says
how to read them.
"""

import argparse
import datetime
import fcntl
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from hosts import Bed, Failure, remove  # noqa: E402
from measure import Measurement, Plan, medians  # noqa: E402
from peers import Peers  # noqa: E402
from report import chart, markdown  # noqa: E402
from tunnels import TUNNELS  # noqa: E402

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: Programs without which nothing can be measured.
TOOLS = ("ip", "ping", "iperf3")
LOCK = "/run/lock/ouroboros-compare"


def say(line):
    print(line, flush=True)


def arguments():
    keys = [tunnel.key for tunnel in TUNNELS]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tunnels", metavar="A,B", type=lambda text: text.split(","),
                        help=f"only these: {', '.join(keys)}")
    parser.add_argument("--rounds", type=int, default=3, help="times each is measured (3)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a TCP run (5)")
    parser.add_argument("--quick", action="store_true",
                        help="one round of short runs: to see that it works")
    parser.add_argument("--cache", default=os.path.join(REPOSITORY, "target", "compare"),
                        help="where peers are installed (target/compare)")
    parser.add_argument("--output", help="where results go (CACHE/results)")
    parser.add_argument("--ovpn-args", default=os.environ.get("OVPN_ARGS", ""), metavar="WORDS",
                        help="more arguments for our ovpn, such as --ovpn-args=--no-offload "
                             "(environment: OVPN_ARGS)")
    parser.add_argument("--no-install", action="store_true", help="use what is there")
    parser.add_argument("--no-build", action="store_true", help="use the release build as it is")
    parser.add_argument("--install-only", action="store_true", help="install, build, and end")
    given = parser.parse_args()
    unknown = set(given.tunnels or ()) - set(keys)
    if unknown:
        parser.error(f"no such tunnel: {', '.join(sorted(unknown))}")
    if given.quick:
        given.rounds, given.seconds = 1, 2
    if given.rounds < 1 or given.seconds < 1:
        parser.error("rounds and seconds are at least 1")
    given.cache = os.path.abspath(given.cache)
    given.output = os.path.abspath(given.output or os.path.join(given.cache, "results"))
    return given


def alone():
    """Keeps others from measuring as long as what it returns is held, and has whatever
    was started end when this ends."""
    lock = open(LOCK, "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("compare: another comparison runs on this machine: wait for it")
    # Also in a background job of a shell, where the first would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return lock


def main():
    given = arguments()
    if os.geteuid() != 0:
        sys.exit("compare: network namespaces and TUN devices need root: run as root")
    lock = alone()  # noqa: F841
    peers = Peers(given.cache, REPOSITORY, say)
    peers.find()
    if not given.no_install:
        peers.install()
    if not given.no_build:
        peers.build()
    missing = [tool for tool in TOOLS if tool not in peers.programs]
    if missing:
        sys.exit(f"compare: {', '.join(missing)}: not installed, and nothing can be measured")
    if not os.path.exists("/dev/net/tun"):
        subprocess.run(["modprobe", "tun"], capture_output=True)
    selected, left_out = choose(given, peers)
    for line in left_out:
        say(f"left out: {line}")
    if not given.install_only:
        sys.exit(compare(given, peers, selected, left_out))


def choose(given, peers):
    """The tunnels that can be measured, and why others cannot."""
    selected, left_out = [], []
    for tunnel in TUNNELS:
        if given.tunnels and tunnel.key not in given.tunnels:
            continue
        lacking = [f"{name} ({peers.missing.get(name)})" for name in tunnel.needs
                   if name not in peers.programs]
        if lacking:
            left_out.append(f"{tunnel.title}: {', '.join(lacking)}")
        else:
            selected.append(tunnel)
    return selected, left_out


def compare(given, peers, selected, left_out):
    plan = Plan(given.seconds, given.quick)
    rounds = {tunnel.key: [] for tunnel in selected}
    failures, stopped = [], False
    began = f"{datetime.datetime.now():%Y-%m-%d %H:%M}", commit(), os.getloadavg()[0]
    try:
        for number in range(1, given.rounds + 1):
            for tunnel in selected:
                say(f"round {number} of {given.rounds}: {tunnel.title}")
                values, failed = measure(given, peers, tunnel, plan)
                rounds[tunnel.key].append(values)
                failures += [f"{tunnel.title}, round {number}: {what}" for what in failed]
    except KeyboardInterrupt:
        say("interrupted: what there is follows")
        stopped = True
    finally:
        for name in ("server", "client"):
            remove(name)
    results = {key: found for key, each in rounds.items() if (found := medians(each))}
    if results:
        about = description(given, peers, *began, stopped)
        write(given, selected, results, rounds, about, left_out, failures)
    return 130 if stopped else 1 if failures or not results else 0


def measure(given, peers, tunnel, plan):
    began = time.monotonic()
    folder = os.path.join(given.cache, "run")
    with Bed(folder, peers.programs, shlex.split(given.ovpn_args)) as bed:
        try:
            tunnel.start(bed)
            bed.wait_for_answer(tunnel.address(bed.server))
        except (Failure, OSError, LookupError) as failure:
            say(f"    failed to start: {failure}")
            keep_logs(given, tunnel, folder)
            return {}, [f"start: {failure}"]
        target = tunnel.address(bed.server)
        measurement = Measurement(bed, target, plan, socket_buffer(), say)
        values = measurement.all()
        if measurement.failures:
            keep_logs(given, tunnel, folder)
    say(f"    {time.monotonic() - began:.0f} s")
    return values, measurement.failures


def keep_logs(given, tunnel, folder):
    """Keeps what the processes of a tunnel that failed said."""
    place = os.path.join(given.output, f"failed-{tunnel.key}")
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place)
    for name in os.listdir(folder):
        if name.endswith(".log"):
            shutil.copy(os.path.join(folder, name), place)


def socket_buffer():
    """Bytes for iperf3's UDP sockets, or none if the system allows no more
    than its default: so that iperf3 is not what drops packets."""
    limits = []
    for name in ("rmem_max", "wmem_max"):
        with open(f"/proc/sys/net/core/{name}") as file:
            limits.append(int(file.read()))
    with open("/proc/sys/net/core/rmem_default") as file:
        default = int(file.read())
    wanted = min(*limits, 1 << 20)
    return wanted if wanted > default else None


def commit():
    """What is measured of ours, as far as the repository knows."""
    done = subprocess.run(["git", "-C", REPOSITORY, "describe", "--always", "--dirty",
                           "--exclude", "*"], capture_output=True, text=True)
    return done.stdout.strip() or "an unknown commit"


def description(given, peers, began, ours, load, stopped):
    model = "unknown processor"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = peers.versions()
    buffer = socket_buffer()
    return [
        f"{began}, {os.cpu_count()} cores of {model}, Linux {platform.release()}, "
        f"ours at {ours}"
        + (f" with {given.ovpn_args}" if given.ovpn_args else "") + ". "
        f"Medians of {given.rounds} interleaved rounds{' (interrupted)' if stopped else ''}, "
        f"{given.seconds} s per TCP run, both ends on this machine. Load before the first run: "
        f"{load:.1f}. iperf3's UDP socket buffers: {buffer or 'the default'}.",
        "",
        "Versions: " + ", ".join(f"{name} {said}" for name, said in versions.items()) + ".",
    ]


def write(given, selected, results, rounds, about, left_out, failures):
    os.makedirs(given.output, exist_ok=True)
    text = markdown(selected, results, about, left_out, failures)
    for name, contents in (
        ("table.md", text),
        ("chart.svg", chart(selected, results, f"Tunnels compared, {datetime.date.today()}")),
        ("results.json", raw({"about": about, "medians": results, "rounds": rounds,
                              "left_out": left_out, "failures": failures})),
    ):
        with open(os.path.join(given.output, name), "w") as file:
            file.write(contents)
    say("\n" + text)
    say(f"Written to {given.output}: table.md, chart.svg, results.json")


def raw(figures):
    """JSON, in which a time without end (a lost ping's) is null."""
    finite = json.loads(json.dumps(figures), parse_constant=lambda _: None)
    return json.dumps(finite, indent=1) + "\n"


if __name__ == "__main__":
    main()
