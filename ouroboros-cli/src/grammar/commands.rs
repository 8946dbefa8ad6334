//! The commands of `irm`. Not here: how their words are read (`read`), and what is done
//! (`bin/irm`).

use super::{
    entry::{
        Arguments,
        Behind::{self, Entries},
        Entry, Keyword,
    },
    name, read,
};

const fn command(word: &'static str, about: &'static str, behind: Behind) -> Entry {
    Entry { word, short: None, about, behind }
}

/// What stands behind the word of a command.
const fn takes(
    operands: &'static str,
    keywords: &'static [Keyword],
    example: &'static str,
    parse: fn(super::Words<'_>, &Arguments) -> Result<super::Command, super::UsageError>,
) -> Behind {
    Behind::Arguments(Arguments { operands, keywords, example, parse })
}

const LAYER: Keyword = Keyword::required("layer", "LAYER", "a layer, as irm ipcp list shows it");
const NAME: Keyword = Keyword::required("name", "NAME", "the name that flows are allocated to");
const IPCP: Keyword = Keyword::required("name", "IPCP", "the IPCP, as irm ipcp list shows it");
const WHOSE: Keyword = Keyword::optional(
    "of",
    "NAME",
    "a name's own key (irm name create NAME key FILE), instead of this machine's",
);
const FOLDER: Keyword =
    Keyword::optional("in", "DIR", "the authority's folder (default: authority beside the key)");
const TYPE: Keyword =
    Keyword::required("type", "TYPE", "eth-dix (Ethernet), udp, udp4 or udp6 (UDP over IP)");

const POLICY: &[Keyword] = &[
    Keyword::optional(
        "auth",
        "none|server|both",
        "who authenticates: nobody, the server, or the server and its clients",
    ),
    Keyword::optional("clients", "FILE", "the keys of the clients that are accepted, one a line"),
    Keyword::optional("ca", "DIR", "the authorities that certify clients, instead of clients FILE"),
    Keyword::optional("key", "FILE", "the name's own private key, instead of this machine's"),
    Keyword::optional("cert", "FILE", "an authority's certificate for the key (X.509, PEM)"),
    Keyword::flag("native", "requires the native profile: no flows with 0.23 peers"),
    Keyword::optional("sencpath", "FILE", "the algorithms of flows that are accepted"),
    Keyword::optional("cencpath", "FILE", "the algorithms of flows that are allocated"),
];

const BINDING: &[Keyword] = &[
    Keyword::optional("program", "PROGRAM", "an executable: a path, or looked for in PATH"),
    Keyword::optional("process", "PID", "a process, instead of a program"),
    NAME,
];

const IPCPS: &[Entry] = &[
    command(
        "create",
        "creates an IPCP that is not attached to anything yet",
        takes("", &[IPCP, TYPE], "irm ipcp create type udp name wan", read::create_ipcp),
    ),
    command(
        "destroy",
        "ends an IPCP, and its layer if that has no other one",
        takes("", &[IPCP], "irm ipcp destroy name wan", read::destroy_ipcp),
    ),
    command(
        "bootstrap",
        "attaches an IPCP to a network and to a layer; both are created if they are not there",
        takes(
            "",
            &[
                TYPE,
                Keyword::required("name", "IPCP", "what the IPCP is called"),
                Keyword::required("layer", "LAYER", "what its layer is called"),
                Keyword::optional("dev", "DEVICE", "eth-dix needs it: the network interface"),
                Keyword::optional(
                    "ip",
                    "ADDRESS",
                    "udp needs it: this machine's own address; any for all of them",
                ),
                Keyword::optional("port", "PORT", "udp: the port, 0 to 65535 (default: 3435)"),
                Keyword::optional("sport", "PORT", "the same as port"),
                Keyword::optional("ethertype", "NUMBER", "eth-dix: 0x600 to 0xffff"),
                Keyword::optional("hash", "HASH", "eth-dix: sha3-224, -256, -384 or -512"),
            ],
            "irm ipcp bootstrap type udp name wan layer internet ip any",
            read::bootstrap,
        ),
    ),
    command(
        "list",
        "lists IPCPs with their layers",
        takes("", &[], "irm --json ipcp list", read::list_ipcps),
    ),
];

const NAMES: &[Entry] = &[
    Entry {
        // It was this before there was `change`.
        short: Some("c"),
        ..command(
            "create",
            "creates a name with a policy: who authenticates, and how flows are encrypted",
            takes(
                "NAME",
                POLICY,
                "irm name create my_vpn clients /etc/ouroboros/friends",
                name::create,
            ),
        )
    },
    Entry {
        // It was this before there was `dns`.
        short: Some("d"),
        ..command(
            "destroy",
            "removes a name with its policy, registrations and bindings",
            takes("NAME", &[], "irm name destroy my_vpn", name::destroy),
        )
    },
    command(
        "register",
        "registers a name in a layer, where flows to it can then be allocated",
        takes("NAME", &[LAYER], "irm name register my_vpn layer internet", name::register),
    ),
    command(
        "unregister",
        "removes a name from a layer",
        takes("NAME", &[LAYER], "irm name unregister my_vpn layer internet", name::unregister),
    ),
    command(
        "list",
        "lists names with their layers, bindings and policies",
        takes("", &[], "irm name list", name::list),
    ),
    command(
        "change",
        "replaces the policy of a name; registrations and bindings stay, and flows that do not \
         fit any more end",
        takes("NAME", POLICY, "irm name change my_vpn auth both native", name::change),
    ),
    command(
        "dns",
        "prints the lines for hosts files and DNS by which clients of a layer over UDP find the \
         server of a name",
        takes(
            "NAME [ip ADDRESS]...",
            &[],
            "irm name dns my_vpn ip 192.0.2.1 ip 2001:db8::1",
            name::dns,
        ),
    ),
];

const KEYS: &[Entry] = &[
    command(
        "show",
        "prints the fingerprint of this machine's key and its file, and the next key if there \
         is one",
        takes("", &[WHOSE], "irm key show", read::show_key),
    ),
    command(
        "generate",
        "generates this machine's key, or the next one, which ovpn servers announce to their \
         clients",
        takes(
            "",
            &[
                Keyword::flag("next", "the next key, which irm key promote puts in force"),
                Keyword::flag("force", "replaces a key that is there"),
                WHOSE,
            ],
            "irm key generate next",
            read::generate_key,
        ),
    ),
    command(
        "export",
        "prints this machine's public key, for an authority to certify",
        takes("", &[], "irm key export", read::export_key),
    ),
    command(
        "promote",
        "puts the next key in the place of the present one, which is kept as .old",
        takes("", &[WHOSE], "irm key promote of my_vpn", read::promote_key),
    ),
];

const CONFIGURATIONS: &[Entry] = &[
    command(
        "check",
        "prints all errors of a configuration file of irmd or ovpn (default: of irmd.conf and \
         ovpn.toml)",
        takes("[FILE]", &[], "irm config check /etc/ouroboros/irmd.conf", read::check),
    ),
    command(
        "save",
        "writes what is in force as a configuration file (default: to standard output)",
        takes("[FILE [force]]", &[], "irm config save /etc/ouroboros/irmd.conf", read::save),
    ),
    command(
        "diff",
        "prints what irmd would change if it loaded a file now",
        takes("FILE", &[], "irm config diff /etc/ouroboros/irmd.conf", read::diff),
    ),
];

const CERTIFICATES: &[Entry] = &[
    command(
        "authority",
        "creates an authority: DIR/authority.key, its private key, and DIR/authority.pem, the \
         certificate that peers install",
        takes(
            "NAME",
            &[Keyword::optional("days", "DAYS", "how long it is valid, 1 to 36500"), FOLDER],
            "irm cert authority home",
            read::make_authority,
        ),
    ),
    command(
        "sign",
        "prints a certificate for a public key",
        takes(
            "",
            &[
                Keyword::optional("key", "FILE", "the public key (default: this machine's)"),
                Keyword::required("for", "NAME", "the common name: a server's name, or a client"),
                Keyword::optional("days", "DAYS", "how long it is valid, 1 to 36500"),
                FOLDER,
            ],
            "irm cert sign key server.pub for my_vpn",
            read::sign_certificate,
        ),
    ),
];

/// All commands.
pub(super) const COMMANDS: &[Entry] = &[
    command("ipcp", "attaches layers to networks", Entries(IPCPS)),
    command("name", "names that flows are allocated to, and their policies", Entries(NAMES)),
    command(
        "flow",
        "flows that programs have",
        Entries(&[command(
            "list",
            "lists the flows that programs have",
            takes("", &[], "irm --json flow list", read::list_flows),
        )]),
    ),
    command("key", "this machine's key", Entries(KEYS)),
    command(
        "bind",
        "lets a program accept the flows to a name",
        takes("", BINDING, "irm bind program ovpn name my_vpn", |words, arguments| {
            read::binding(words, arguments, true)
        }),
    ),
    command(
        "unbind",
        "no longer lets a program accept the flows to a name",
        takes("", BINDING, "irm unbind program ovpn name my_vpn", |words, arguments| {
            read::binding(words, arguments, false)
        }),
    ),
    command(
        "register",
        "registers a name in a layer, as irm name register does",
        takes("", &[NAME, LAYER], "irm register name my_vpn layer internet", |words, arguments| {
            name::registration(words, arguments, true)
        }),
    ),
    command(
        "unregister",
        "removes a name from a layer, as irm name unregister does",
        takes(
            "",
            &[NAME, LAYER],
            "irm unregister name my_vpn layer internet",
            |words, arguments| name::registration(words, arguments, false),
        ),
    ),
    command("config", "configuration files", Entries(CONFIGURATIONS)),
    command("cert", "a small certificate authority", Entries(CERTIFICATES)),
    command(
        "completions",
        "prints a completion script for a shell",
        takes("bash|zsh|fish", &[], "irm completions bash", read::completions),
    ),
    command(
        "status",
        "prints IPCPs, names and flows",
        takes("", &[], "irm --watch status", read::status),
    ),
];
