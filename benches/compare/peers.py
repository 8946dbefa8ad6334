"""Installs what is compared: tools and peers from Debian's and cargo's packages.

Nothing here is fatal: what cannot be had is recorded with its reason, and the
tunnels that need it are left out.
"""

import json
import os
import re
import shutil
import subprocess
import tomllib

#: Programs of Debian packages of the release that runs.
DEBIAN = {
    "ip": "iproute2", "ping": "iputils-ping", "iperf3": "iperf3", "wg": "wireguard-tools",
    "openvpn": "openvpn", "openssl": "openssl", "fastd": "fastd",
}
#: Programs of crates.
CRATES = {
    "gotatun": "gotatun-cli", "boringtun-cli": "boringtun-cli", "quincy-server": "quincy-server",
    "quincy-client": "quincy-client", "vpncloud": "vpncloud",
}
#: Ours, in the target folder.
OURS = {
    "ovpn-example": "examples/ovpn", "ovpn": "ovpn", "irmd": "irmd", "irm": "irm",
    "forwarder": "forwarder",
}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Peers:
    """The programs that were found, and why others were not."""

    def __init__(self, cache, repository, say):
        self.cache, self.repository, self.say = cache, repository, say
        self.programs, self.missing = {}, {}

    def find(self):
        """Takes what is there."""
        for name in DEBIAN:
            self._found(name, shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"))
        for name in CRATES:
            self._found(name, os.path.join(self.cache, "bin", name))
        newest = os.path.join(self.cache, "wireguard-go", "usr", "bin", "wireguard-go")
        self._found("wireguard-go", newest) or self._found(
            "wireguard-go", shutil.which("wireguard-go"))
        for name, path in OURS.items():
            self._found(name, os.path.join(self._target(), "release", path))

    def install(self, only=None):
        """Installs what is not there, of all or of a few."""
        self.find()
        wanted = [name for name in only or DEBIAN
                  if name in DEBIAN and name not in self.programs]
        if wanted:
            self._apt("update", "-q")
        for name in wanted:
            self._try(name, lambda: self._apt("install", "-y", "-q", "--no-install-recommends",
                                              DEBIAN[name]))
        if "wireguard-go" not in self.programs:
            self._try("wireguard-go", self._newest_wireguard_go)
        if not os.path.exists(os.path.join(self.cache, "wireguard-go")):
            # The release's own is years older, without offload: better than none.
            if shutil.which("wireguard-go") is None:
                self._try("wireguard-go", lambda: self._apt(
                    "install", "-y", "-q", "--no-install-recommends", "wireguard-go"))
        for name, crate in CRATES.items():
            if name not in self.programs and (only is None or name in only):
                self._try(name, lambda: self._command(
                    crate, "cargo", "install", "--locked", "--root", self.cache, "--target-dir",
                    os.path.join(self.cache, "build"), crate))
        self.find()

    def build(self):
        """Builds ours; what an earlier build left is not measured if it fails."""
        done = self._try("ovpn", lambda: self._command(
            "ouroboros", "cargo", "build", "--release", "--locked", *self._profile(),
            "-p", "ouroboros-cli", "-p", "ouroboros-examples", "-p", "ouroboros-forwarder",
            "--bins", "--examples", cwd=self.repository))
        failure = self.missing.get("ovpn")
        self.find()
        for name in () if done else OURS:
            self.programs.pop(name, None)
            self.missing[name] = failure

    def _profile(self):
        """The release profile of the manifest, as options that go before this machine's
        configuration and environment: without its LTO ours is another program."""
        with open(os.path.join(self.repository, "Cargo.toml"), "rb") as file:
            release = tomllib.load(file)["profile"]["release"]
        return [word for key, value in release.items()
                for word in ("--config", f"profile.release.{key}={json.dumps(value)}")]

    def versions(self):
        """What each peer, and iperf3, says it is."""
        said = {}
        for name in ("wireguard-go", "openvpn", "fastd", "iperf3"):
            if name in self.programs:
                done = subprocess.run([self.programs[name], "--version"], capture_output=True,
                                      text=True, stdin=subprocess.DEVNULL)
                number = re.search(r"\d+[\d.]*", done.stdout + done.stderr)
                said[name] = number.group() if number else "?"
        package = os.path.join(self.cache, "wireguard-go", "version")
        if os.path.exists(package):
            with open(package) as file:
                said["wireguard-go"] = file.read().strip()
        crates = os.path.join(self.cache, ".crates.toml")
        if os.path.exists(crates):
            with open(crates) as file:
                installed = re.findall(r'^"([\w-]+) ([^ ]+) ', file.read(), re.MULTILINE)
            said.update((name, version) for name, version in installed if name in CRATES.values())
        return said

    def _found(self, name, path):
        if path and os.access(path, os.X_OK):
            self.programs[name] = path
            self.missing.pop(name, None)
            return True
        self.missing.setdefault(name, "not installed")
        return False

    def _try(self, name, attempt):
        try:
            attempt()
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            self.missing[name] = str(error)
            self.say(f"cannot install {name}: {error}")
            return False
        return True

    def _target(self):
        return os.environ.get("CARGO_TARGET_DIR") or os.path.join(self.repository, "target")

    def _command(self, log, *command, **options):
        """Runs a long command, gently, with its output in a log."""
        os.makedirs(self.cache, exist_ok=True)
        path = os.path.join(self.cache, f"{log}.log")
        self.say(f"$ {' '.join(command)}  (output in {path})")
        if shutil.which(command[0]) is None:
            raise ValueError(f"{command[0]} is not in PATH")
        with open(path, "w") as output:
            done = subprocess.run(["nice", "-n", "10", *command], stdin=subprocess.DEVNULL,
                                  stdout=output, stderr=subprocess.STDOUT, **options)
        if done.returncode != 0:
            with open(path, errors="replace") as output:
                errors = [line.strip() for line in output if "rror" in line] or ["failed"]
            raise ValueError(f"{' '.join(command[:2])}: {errors[0]}")

    def _apt(self, *words):
        self._command("apt", "apt-get", *words,
                      env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})

    def _newest_wireguard_go(self):
        """Debian's newest package, unpacked aside: the one of a stable release
        knows no offload. The system's own package lists stay as they are."""
        places = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)",
             "Created-By: Packages"], capture_output=True, text=True).stdout.splitlines()
        mirror = next((place.split()[0] for place in places
                       if place.endswith(" Debian") and "security" not in place), None)
        if mirror is None:
            raise ValueError("apt knows no mirror of Debian")
        folder = os.path.join(self.cache, "apt")
        for name in ("lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        with open(os.path.join(folder, "sources.list"), "w") as file:
            file.write(f"deb [signed-by={KEYRING}] {mirror} sid main\n")
        options = ["-o", f"Dir::Etc::sourcelist={folder}/sources.list",
                   "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={folder}/lists",
                   "-o", f"Dir::Cache={folder}/cache", "-o", "APT::Sandbox::User=root",
                   "-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]
        self._command("wireguard-go", "apt-get", *options, "update", "-q")
        self._command("wireguard-go", "apt-get", *options, "download", "wireguard-go", cwd=folder)
        package = next(name for name in sorted(os.listdir(folder), reverse=True)
                       if name.startswith("wireguard-go_"))
        place = os.path.join(self.cache, "wireguard-go")
        subprocess.run(["dpkg-deb", "-x", os.path.join(folder, package), place], check=True)
        with open(os.path.join(place, "version"), "w") as file:
            file.write(package.split("_")[1])
        subprocess.run([os.path.join(place, "usr/bin/wireguard-go"), "--version"], check=True,
                       capture_output=True)

