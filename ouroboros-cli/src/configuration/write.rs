//! A configuration as the text of a file that says it, and as JSON on its way from the
//! daemon. Not here: reading a file.

use std::{fmt::Write, path::PathBuf};

use ouroboros::{
    crypto::Algorithms,
    daemon::{
        protocol::{TransportSpec, text_of_path},
        security::{Authentication, NamePolicy},
    },
};

use super::{Configuration, Ipcp};

impl Configuration {
    /// As lines of JSON.
    #[must_use]
    pub fn to_lines(&self) -> Vec<String> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Returns the configuration that [`to_lines`](Self::to_lines) has written.
    ///
    /// # Errors
    ///
    /// The lines are something else.
    pub fn from_lines(lines: &[String]) -> serde_json::Result<Self> {
        serde_json::from_str(&lines.join("\n"))
    }

    /// The text of a file that says this.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (name, ipcp) in &self.ipcps {
            self.ipcp(&mut text, name, ipcp);
        }
        // A binding is said in the table of its name, which is created with it.
        let bound = self.programs.iter().map(|(name, _)| name);
        let mut names: Vec<_> = self.names.keys().chain(bound).collect();
        names.sort();
        names.dedup();
        for name in names {
            let layers = self.registrations.iter().filter(|(registered, _)| registered == name);
            let layers: Vec<_> = layers.map(|(_, layer)| quoted(layer)).collect();
            let programs = self.programs.iter().filter(|(bound, _)| bound == name);
            let programs: Vec<_> = programs.map(|(_, path)| quoted(path)).collect();
            line(&mut text, &format!("[name.{}]", quoted(name)));
            list(&mut text, "reg", &layers);
            list(&mut text, "prog", &programs);
            if let Some(policy) = self.names.get(name) {
                security(&mut text, &policy.policy);
            }
            text.push('\n');
        }
        text
    }

    fn ipcp(&self, text: &mut String, name: &str, ipcp: &Ipcp) {
        line(text, &format!("[{}.{}]", ipcp.kind, quoted(name)));
        match &ipcp.transport {
            TransportSpec::EthDix { device, ethertype, hash } => {
                pair(text, "dev", Some(quoted(device)));
                pair(text, "ethertype", ethertype.map(|number| format!("{number:#06x}")));
                pair(text, "hash", hash.as_deref().map(quoted));
            }
            TransportSpec::Udp { ip, port } => {
                pair(text, "ip", Some(quoted(&ip.to_string())));
                pair(text, "port", port.map(|port| port.to_string()));
            }
        }
        if let Some(layer) = &ipcp.layer {
            pair(text, "bootstrap", Some(quoted(layer)));
            // Names without a table, once for each layer.
            let first = self.ipcps.iter().find(|(_, other)| other.layer.as_ref() == Some(layer));
            let has_table = |name: &String| {
                self.names.contains_key(name)
                    || self.programs.iter().any(|(bound, _)| bound == name)
            };
            let names = self.registrations.iter().filter(|(registered, of)| {
                of == layer && !has_table(registered) && first.is_some_and(|(it, _)| it == name)
            });
            let names: Vec<_> = names.map(|(registered, _)| quoted(registered)).collect();
            list(text, "reg", &names);
        }
        text.push('\n');
    }
}

fn security(text: &mut String, policy: &NamePolicy) {
    let NamePolicy { server, client, authentication, native, key, certificate } = policy;
    pair(text, "senc", server.as_ref().map(algorithms));
    pair(text, "cenc", client.as_ref().map(algorithms));
    let word = |word: &str| Some(quoted(word));
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| quoted(&text_of_path(path)));
    match authentication {
        Authentication::Offered => {}
        Authentication::None => pair(text, "auth", word("none")),
        Authentication::Server(ca) => {
            pair(text, "auth", word("server"));
            pair(text, "ca", path(ca));
        }
        Authentication::Keys(file) => pair(text, "clients", Some(quoted(&text_of_path(file)))),
        Authentication::Authorities(ca) => {
            pair(text, "auth", word("both"));
            pair(text, "ca", path(ca));
        }
    }
    pair(text, "native", native.then(|| "true".to_owned()));
    pair(text, "key", path(key));
    pair(text, "cert", path(certificate));
}

/// The settings of a file of algorithms, in one line.
fn algorithms(Algorithms { kex, kdf, cipher, digest }: &Algorithms) -> String {
    let named = [
        kex.map(|kex| format!("kex={kex}")),
        kdf.map(|kdf| format!("kdf={kdf}")),
        cipher.map(|cipher| format!("cipher={cipher}")),
        digest.map(|digest| format!("digest={digest}")),
    ];
    quoted(&named.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

fn pair(text: &mut String, key: &str, value: Option<String>) {
    if let Some(value) = value {
        line(text, &format!("{key} = {value}"));
    }
}

fn list(text: &mut String, key: &str, values: &[String]) {
    if !values.is_empty() {
        line(text, &format!("{key} = [{}]", values.join(", ")));
    }
}

fn line(text: &mut String, line: &str) {
    // A text takes everything.
    let _ = writeln!(text, "{line}");
}

/// A basic string of TOML, which JSON's are but for one character.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ouroboros_testing::Folder;

    use super::*;

    #[test]
    fn what_is_written_says_the_same_when_it_is_read() {
        let folder = Folder::new();
        folder.write("friends", "");
        folder.write("key.pem", "");
        let text = r#"
            [name."my.vpn \"quoted\" \u00e9"]
            prog = ["sh"]
            reg = ["internet", "lan"]
            senc = "cipher=aes-256-gcm kex=X25519"
            cenc = ""
            native = true
            [name.closed]
            clients = "friends"
            key = "key.pem"
            [name.by-authority]
            ca = "."
            [name.server]
            auth = "server"
            ca = "."
            [name.open]
            auth = "none"
            cenc = "none"
            [name.own]
            auth = "both"
            [udp.wan]
            bootstrap = "internet"
            ip = "10.1.0.2"
            port = 4000
            reg = ["only.registered"]
            [udp6.wan6]
            bootstrap = "internet"
            ip = "any"
            [udp6.link]
            bootstrap = "link"
            ip = "fe80::1%eth0"
            [eth-dix."a lan"]
            bootstrap = "lan"
            dev = "eth0"
            ethertype = 0xA001
            hash = "SHA3_512"
        "#;
        let said = Configuration::parse(text, folder.path()).expect("it makes sense");
        let written = said.to_toml();
        let again = Configuration::parse(&written, Path::new("/")).expect(&written);
        let lineless = |mut configuration: Configuration| {
            configuration.names.values_mut().for_each(|policy| policy.line = 0);
            configuration
        };
        assert_eq!(lineless(again), lineless(said.clone()), "{written}");
        let sent = Configuration::from_lines(&said.to_lines()).expect("JSON");
        assert_eq!(sent, said);
        assert_eq!(Configuration::default().to_toml(), "");
    }
}
