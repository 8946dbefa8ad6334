"""The tunnels: how each is started on both hosts of a bed.

Every one is set up as its own documentation does it by default, with one
userspace process per host; none is tuned.
"""

import hashlib
import os
import re
import ssl

from hosts import Failure, run, says, wait

NAME = "my_vpn"
#: The name of the flow in the hosts file: its MD5.
HASHED = hashlib.md5(NAME.encode(), usedforsecurity=False).hexdigest()
PORT = 7000


class Tunnel:
    """A row of the table."""

    def __init__(self, key, title, kind, needs, start, inner=True):
        self.key, self.title, self.kind = key, title, kind
        self.needs, self.start, self.inner = needs, start, inner

    def address(self, host):
        return host.inner if self.inner else host.outer


def nothing(_bed):
    """The cable itself."""


def forwarder(*options):
    def start(bed):
        for host in bed.hosts:
            other = bed.other(host)
            host.start(bed.program("forwarder"), *options, "tun0", f"{host.outer}:{PORT}",
                       f"{other.outer}:{PORT}")
            # What IPv4 and UDP leave of 1500, less what --seal adds.
            host.configure("tun0", 1440)
    return start


def wireguard(program, *options):
    def start(bed):
        public = {}
        for host in bed.hosts:
            private = run("wg", "genkey")
            host.write("private", private)
            public[host.name] = run("wg", "pubkey", input=private).strip()
        for host in bed.hosts:
            other = bed.other(host)
            host.start(bed.program(program), *options, host.device)
            host.wait_for_device(host.device)
            answers = lambda: "interface" in show(host, host.device)
            wait(answers, f"{program}'s socket", [host])
            host.run("wg", "set", host.device, "private-key", host.path("private"),
                     "listen-port", PORT, "peer", public[other.name],
                     "allowed-ips", "10.9.0.0/24", "endpoint", f"{other.outer}:{PORT}")
            host.configure(host.device, 1420)
    return start


def show(host, device):
    try:
        return host.run("wg", "show", device)
    except Failure:
        return ""


def certificate(host):
    """A certificate signed by itself, its key, and its SHA-256 fingerprint."""
    key, made = host.path("key.pem"), host.path("certificate.pem")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-days", "30", "-subj", f"/CN={host.name}", "-keyout", key, "-out", made,
        "-addext", "basicConstraints=critical,CA:FALSE",
        "-addext", f"subjectAltName=DNS:{host.name},IP:{host.outer}")
    with open(made) as file:
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read())).hexdigest()
    return made, key, fingerprint


def openvpn(bed):
    certificates = {host.name: certificate(host) for host in bed.hosts}
    for host in bed.hosts:
        other = bed.other(host)
        made, key, _ = certificates[host.name]
        fingerprint = certificates[other.name][2].upper()
        colons = ":".join(fingerprint[i:i + 2] for i in range(0, len(fingerprint), 2))
        role = ["--tls-server", "--dh", "none"] if host is bed.server else [
            "--tls-client", "--remote", other.outer, str(PORT)]
        host.start(bed.program("openvpn"), "--dev", "tun", "--proto", "udp", "--disable-dco",
                   "--ifconfig", host.inner, other.inner, "--lport", PORT, *role,
                   "--cert", made, "--key", key, "--peer-fingerprint", colons,
                   "--data-ciphers", "AES-256-GCM", "--verb", "1")


def fastd(bed):
    keys = {}
    for host in bed.hosts:
        said = run(bed.program("fastd"), "--generate-key")
        keys[host.name] = re.findall(r"(?:Secret|Public): (\w+)", said)
    for host in bed.hosts:
        other = bed.other(host)
        remote = f'remote {other.outer} port {PORT};' if host is bed.client else ""
        up = f"ip addr add {host.inner}/24 dev $INTERFACE; ip link set $INTERFACE up"
        path = host.write("fastd.conf", f"""
mode tun;
interface "tun0";
method "salsa2012+umac";
mtu 1426;
bind {host.outer}:{PORT};
secret "{keys[host.name][0]}";
on up "{up}";
peer "{other.name}" {{ key "{keys[other.name][1]}"; {remote} }}
""")
        host.start(bed.program("fastd"), "--config", path)


def quincy(bed):
    made, key, _ = certificate(bed.server)
    client_made, client_key, fingerprint = certificate(bed.client)
    users = bed.server.write("users.toml", f"""
[users.client]
authorized_keys = []
authorized_certs = ["sha256:{fingerprint}"]
""")
    bed.server.start(bed.program("quincy-server"), "--config-path", bed.server.write(
        "quincy.toml", f"""
name = "compare"
bind_address = "{bed.server.outer}"
bind_port = {PORT}
tunnel_network = "{bed.server.inner}/24"
users_file = "{users}"
[protocol]
mode = "tls"
certificate_file = "{made}"
certificate_key_file = "{key}"
[log]
level = "info"
"""))
    bed.client.start(bed.program("quincy-client"), "--config-path", bed.client.write(
        "quincy.toml", f"""
connection_string = "{bed.server.outer}:{PORT}"
[protocol]
mode = "tls"
trusted_certificate_paths = ["{made}"]
client_certificate_file = "{client_made}"
client_certificate_key_file = "{client_key}"
[log]
level = "info"
"""))


def vpncloud(bed):
    for host in bed.hosts:
        other = bed.other(host)
        # It looks for its own address, and for an MTU, on the way to the Internet.
        host.ip("route", "add", "default", "via", other.outer)
        # Its own way to set the address (--ip) sets another, built by a new compiler.
        up = f"ip addr add {host.inner}/24 dev tun0; ip link set tun0 up"
        host.start(bed.program("vpncloud"), "--type", "tun", "--device", "tun0",
                   "--password", "compare", "--algorithm", "aes256", "--listen",
                   f"{host.outer}:{PORT}", "--peer", f"{other.outer}:{PORT}", "--ifup", up,
                   "--claim", f"{host.inner}/32", "--no-port-forwarding")


def name_the_server(bed):
    """Says in the client's hosts file where the flow's name is served."""
    folder = f"/etc/netns/{bed.client.namespace}"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/hosts", "w") as file:
        file.write(f"127.0.0.1 localhost\n{bed.server.outer} {HASHED}\n")


def embedded(layer):
    def start(bed):
        name_the_server(bed)
        for host, role in ((bed.server, ["--serve", NAME]),
                           (bed.client, ["--connect", NAME, "--crypt"])):
            process = host.start(bed.program("ovpn-example"), "--layer", layer(host), *role,
                                 "--ip", f"{host.inner}/24", *bed.ovpn_arguments)
            if host is bed.server:
                wait(lambda: says(process, "Waiting"), "the served name", [host])
    return start


def serve(bed, transport):
    """Starts the daemons and the server; the environment of each host's programs."""
    name_the_server(bed)
    environment = {}
    for host in bed.hosts:
        environment[host.name] = {
            "OUROBOROS_SOCKET": host.path("irmd.sock"),
            "PATH": f"{os.path.dirname(bed.program('ovpn'))}:{os.environ['PATH']}",
        }
        process = host.start(bed.program("irmd"), "--stdout",
                             environment=environment[host.name])
        wait(lambda: says(process, "serves"), "irmd", [host])
        irm(bed, host, environment, "ipcp", "bootstrap", *transport(host), "layer", "my_layer")
    irm(bed, bed.server, environment, "reg", "name", NAME, "layer", "my_layer")
    irm(bed, bed.server, environment, "bind", "program", "ovpn", "name", NAME)
    process = bed.server.start(bed.program("ovpn"), "--ip", f"{bed.server.inner}/24",
                               *bed.ovpn_arguments, environment=environment["server"])
    wait(lambda: says(process, "Waiting"), "the served name", bed.hosts)
    return environment


def daemons(transport):
    def start(bed):
        environment = serve(bed, transport)
        bed.client.start(bed.program("ovpn"), "-n", NAME, "-i", f"{bed.client.inner}/24",
                         "--crypt", *bed.ovpn_arguments, environment=environment["client"])
    return start


def irm(bed, host, environment, *words):
    host.run(bed.program("irm"), *words, env={**os.environ, **environment[host.name]})


OURS, PEER, LIMIT = "ours", "peer", "limit"

TUNNELS = [
    Tunnel("ovpn", "Ouroboros, UDP", OURS, ["ovpn-example"],
           embedded(lambda host: f"udp:{host.outer}")),
    Tunnel("ovpn-irmd", "Ouroboros, UDP, through irmd", OURS, ["ovpn", "irmd", "irm"],
           daemons(lambda host: ["type", "udp", "name", "udp", "ip", host.outer])),
    Tunnel("ovpn-eth-dix", "Ouroboros, eth-dix", OURS, ["ovpn-example"],
           embedded(lambda host: "eth-dix:eth0")),
    Tunnel("wireguard-go", "wireguard-go", PEER, ["wireguard-go", "wg"],
           wireguard("wireguard-go", "-f")),
    Tunnel("gotatun", "gotatun", PEER, ["gotatun", "wg"],
           wireguard("gotatun", "-f", "--disable-drop-privileges")),
    Tunnel("boringtun", "boringtun", PEER, ["boringtun-cli", "wg"],
           wireguard("boringtun-cli", "-f", "--disable-drop-privileges")),
    Tunnel("openvpn", "OpenVPN, AES-256-GCM", PEER, ["openvpn", "openssl"], openvpn),
    Tunnel("quincy", "quincy, TLS mode", PEER, ["quincy-server", "quincy-client", "openssl"],
           quincy),
    Tunnel("vpncloud", "vpncloud, AES-256", PEER, ["vpncloud"], vpncloud),
    Tunnel("fastd", "fastd, salsa2012+umac", PEER, ["fastd"], fastd),
    Tunnel("forwarder", "bare forwarder", LIMIT, ["forwarder"], forwarder()),
    Tunnel("forwarder-seal", "the forwarder, sealing (ring)", LIMIT, ["forwarder"],
           forwarder("--seal")),
    Tunnel("veth", "the veth itself, no tunnel", LIMIT, [], nothing, inner=False),
]
