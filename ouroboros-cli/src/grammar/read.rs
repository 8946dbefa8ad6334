//! How the words of a command are read that stand behind the command's own. Not here: those
//! about names (`name`), and the commands (`commands`).

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ouroboros::{
    daemon::protocol::TransportSpec,
    transport::{InvalidScopedAddress, ScopedAddress},
};

use super::{
    Command, Shell, UsageError, Words,
    entry::Arguments,
    words::{Pairs, flow_name, named, nothing_more, one_of, take, value},
};

type Outcome = Result<Command, UsageError>;

pub(super) fn list_flows(words: Words<'_>, _: &Arguments) -> Outcome {
    nothing_more(words).map(|()| Command::ListFlows)
}

pub(super) fn status(words: Words<'_>, _: &Arguments) -> Outcome {
    nothing_more(words).map(|()| Command::Status)
}

pub(super) fn list_ipcps(words: Words<'_>, _: &Arguments) -> Outcome {
    nothing_more(words).map(|()| Command::ListIpcps)
}

pub(super) fn show_key(words: Words<'_>, arguments: &Arguments) -> Outcome {
    Ok(Command::ShowKey { name: whose(&mut Pairs::parse(words, arguments)?)? })
}

pub(super) fn export_key(words: Words<'_>, _: &Arguments) -> Outcome {
    nothing_more(words).map(|()| Command::ExportKey)
}

pub(super) fn promote_key(words: Words<'_>, arguments: &Arguments) -> Outcome {
    Ok(Command::PromoteKey { name: whose(&mut Pairs::parse(words, arguments)?)? })
}

/// The name whose key is meant.
fn whose(pairs: &mut Pairs) -> Result<Option<String>, UsageError> {
    pairs.take("of").map(flow_name).transpose()
}

pub(super) fn generate_key(words: Words<'_>, arguments: &Arguments) -> Outcome {
    let mut pairs = Pairs::parse(words, arguments)?;
    let force = pairs.take("force").is_some();
    match (pairs.take("next"), whose(&mut pairs)?) {
        (Some(_), name) => Ok(Command::GenerateNextKey { name, force }),
        (None, None) => Ok(Command::GenerateKey { force }),
        (None, Some(_)) => Err(UsageError::Missing(
            "next beside of: a name's first key is the file that irm name create NAME key FILE \
             has"
            .to_owned(),
        )),
    }
}

pub(super) fn check(words: Words<'_>, _: &Arguments) -> Outcome {
    let Some((file, rest)) = words.split_first() else {
        return Ok(Command::CheckConfiguration { file: None });
    };
    nothing_more(rest).map(|()| Command::CheckConfiguration { file: Some(file.clone()) })
}

pub(super) fn diff(words: Words<'_>, _: &Arguments) -> Outcome {
    let (file, rest) = value(words, "a file")?;
    nothing_more(rest).map(|()| Command::DiffConfiguration { file })
}

/// `config save`, `config save FILE`, `config save FILE force`.
pub(super) fn save(words: Words<'_>, _: &Arguments) -> Outcome {
    let Some((file, rest)) = words.split_first() else {
        return Ok(Command::SaveConfiguration { file: None, force: false });
    };
    let force = !rest.is_empty();
    if force {
        let (_, rest) = take(rest, &["force"])?;
        nothing_more(rest)?;
    }
    Ok(Command::SaveConfiguration { file: Some(file.clone()), force })
}

pub(super) fn make_authority(words: Words<'_>, arguments: &Arguments) -> Outcome {
    let (name, rest) = named(words)?;
    let mut pairs = Pairs::parse(rest, arguments)?;
    Ok(Command::MakeAuthority { name, days: days(&mut pairs)?, folder: pairs.take("in") })
}

pub(super) fn sign_certificate(words: Words<'_>, arguments: &Arguments) -> Outcome {
    let mut pairs = Pairs::parse(words, arguments)?;
    let days = days(&mut pairs)?;
    let name = flow_name(pairs.need("for")?)?;
    Ok(Command::SignCertificate { key: pairs.take("key"), name, days, folder: pairs.take("in") })
}

fn days(pairs: &mut Pairs) -> Result<Option<u32>, UsageError> {
    pairs.number("days", 1..=MOST_DAYS)
}

pub(super) fn completions(words: Words<'_>, _: &Arguments) -> Outcome {
    let (shell, rest) = take(words, &["bash", "zsh", "fish"])?;
    nothing_more(rest)?;
    Ok(Command::Completions(match shell {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        _ => Shell::Fish,
    }))
}

pub(super) fn create_ipcp(words: Words<'_>, arguments: &Arguments) -> Outcome {
    let mut pairs = Pairs::parse(words, arguments)?;
    let kind = one_of("type", pairs.need("type")?, TYPES, KNOWN_TYPES)?;
    Ok(Command::CreateIpcp { name: pairs.need("name")?, kind: kind.to_owned() })
}

pub(super) fn destroy_ipcp(words: Words<'_>, arguments: &Arguments) -> Outcome {
    Ok(Command::DestroyIpcp { name: Pairs::parse(words, arguments)?.need("name")? })
}

/// The longest validity of a certificate that can be asked for: a century.
const MOST_DAYS: u32 = 36_500;
const PORTS: RangeInclusive<u32> = 0..=0xffff;
/// Smaller numbers are lengths of frames (IEEE 802.3).
const ETHERTYPES: RangeInclusive<u32> = 0x600..=0xffff;
const PROCESSES: RangeInclusive<u32> = 1..=i32::MAX as u32;
const TYPES: &[&str] = &["eth-dix", "udp", "udp4", "udp6"];
const KNOWN_TYPES: &str = "eth-dix, udp, udp4 or udp6 is known";
const HASHES: &[&str] = &["sha3-224", "sha3-256", "sha3-384", "sha3-512"];
const KNOWN_HASHES: &str = "sha3-224, sha3-256, sha3-384 or sha3-512 is known";

pub(super) fn bootstrap(words: Words<'_>, arguments: &Arguments) -> Outcome {
    let words = without_old_keywords(words);
    let mut pairs = Pairs::parse(&words, arguments)?;
    let name = pairs.need("name")?;
    let layer = pairs.need("layer")?;
    let kind = one_of("type", pairs.need("type")?, TYPES, KNOWN_TYPES)?;
    let transport = if kind == "eth-dix" {
        TransportSpec::EthDix {
            device: pairs.need("dev")?,
            ethertype: pairs.number("ethertype", ETHERTYPES)?,
            hash: (pairs.take("hash"))
                .map(|hash| one_of("hash", hash.to_lowercase(), HASHES, KNOWN_HASHES))
                .transpose()?
                .map(str::to_owned),
        }
    } else {
        let text = match (pairs.need("ip")?, kind) {
            (any, "udp4") if any == "any" => Ipv4Addr::UNSPECIFIED.to_string(),
            (any, _) if any == "any" => Ipv6Addr::UNSPECIFIED.to_string(),
            (text, _) => text,
        };
        let bad = |reason| UsageError::Value { keyword: "ip", value: text.clone(), reason };
        let ip: ScopedAddress = text.parse().map_err(|error| match error {
            InvalidScopedAddress::Address => bad("not an IP address: this machine's own is meant"),
            other => bad(other.reason()),
        })?;
        let v4 = ip.address().is_ipv4();
        if (kind == "udp4" && !v4) || (kind == "udp6" && v4) {
            return Err(bad("an address of the other family"));
        }
        let (port, sport) = (pairs.number("port", PORTS)?, pairs.number("sport", PORTS)?);
        if port.is_some() && sport.is_some() {
            return Err(UsageError::Twice("port"));
        }
        TransportSpec::Udp { ip, port: port.or(sport) }
    };
    pairs.end(&format!("a keyword that goes with type {kind}"))?;
    Ok(Command::Bootstrap { name, layer, transport })
}

/// `dirhash` is `hash`, and `autobind`, which stands alone, means nothing here.
/// Old names count as whole words only, so that they make no prefix ambiguous.
fn without_old_keywords(words: Words<'_>) -> Vec<String> {
    let mut known = Vec::with_capacity(words.len());
    let mut words = words.iter();
    while let Some(keyword) = words.next() {
        match keyword.as_str() {
            "autobind" => continue,
            "dirhash" => known.push("hash".to_owned()),
            _ => known.push(keyword.clone()),
        }
        known.extend(words.next().cloned());
    }
    known
}

pub(super) fn binding(words: Words<'_>, arguments: &Arguments, bind: bool) -> Outcome {
    let mut pairs = Pairs::parse(words, arguments)?;
    let (program, pid) = (pairs.take("program"), pairs.number("process", PROCESSES)?);
    let name = flow_name(pairs.need("name")?)?;
    match (program, pid) {
        (Some(program), None) => Ok(Command::Program { program, name, bind }),
        (None, Some(pid)) => Ok(Command::Process { pid, name, bind }),
        _ => Err(UsageError::Missing("either program or process".to_owned())),
    }
}
