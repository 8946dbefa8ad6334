//! The words about names: `name create` and the others behind `name`, and `register`. Not
//! here: what a policy means (`irmd::policy`).

use std::net::IpAddr;

use ouroboros::{
    daemon::{protocol::path_from_text, security::NamePolicy},
    transport::InvalidScopedAddress,
};

use super::{
    Command, UsageError, Words,
    entry::Arguments,
    words::{Pairs, flow_name, named, nothing_more, one_of, take, value},
};
use crate::name_policy::{AlgorithmFiles, Auth, authentication};

type Outcome = Result<Command, UsageError>;

pub(super) fn create(words: Words<'_>, arguments: &Arguments) -> Outcome {
    let (name, policy, algorithms) = policy(words, arguments)?;
    Ok(Command::CreateName { name, policy, algorithms })
}

pub(super) fn change(words: Words<'_>, arguments: &Arguments) -> Outcome {
    let (name, policy, algorithms) = policy(words, arguments)?;
    Ok(Command::ChangeName { name, policy, algorithms })
}

pub(super) fn destroy(words: Words<'_>, _: &Arguments) -> Outcome {
    let (name, rest) = named(words)?;
    nothing_more(rest).map(|()| Command::DestroyName { name })
}

pub(super) fn list(words: Words<'_>, _: &Arguments) -> Outcome {
    nothing_more(words).map(|()| Command::ListNames)
}

pub(super) fn dns(words: Words<'_>, _: &Arguments) -> Outcome {
    let (name, mut rest) = named(words)?;
    let mut addresses = Vec::new();
    while !rest.is_empty() {
        let (_, words) = take(rest, &["ip"])?;
        let (text, words) = value(words, "a value behind ip")?;
        addresses.push(ip(&text)?);
        rest = words;
    }
    Ok(Command::NameDns { name, addresses })
}

fn policy(
    words: Words<'_>,
    arguments: &Arguments,
) -> Result<(String, NamePolicy, AlgorithmFiles), UsageError> {
    let (name, rest) = named(words)?;
    let mut pairs = Pairs::parse(rest, arguments)?;
    let known = "none, server or both is known";
    let auth = pairs.take("auth").map(|word| one_of("auth", word, &Auth::WORDS, known));
    let auth = auth.transpose()?.and_then(Auth::from_word);
    let native = pairs.take("native").is_some();
    let mut path = |keyword| pairs.take(keyword).as_deref().map(path_from_text);
    let algorithms = AlgorithmFiles { server: path("sencpath"), client: path("cencpath") };
    let policy = NamePolicy {
        authentication: authentication(auth, path("clients"), path("ca"))?,
        native,
        key: path("key"),
        certificate: path("cert"),
        ..NamePolicy::default()
    };
    Ok((name, policy, algorithms))
}

pub(super) fn register(words: Words<'_>, arguments: &Arguments) -> Outcome {
    named_layer(words, arguments).map(|(name, layer)| Command::Register { name, layer })
}

pub(super) fn unregister(words: Words<'_>, arguments: &Arguments) -> Outcome {
    named_layer(words, arguments).map(|(name, layer)| Command::Unregister { name, layer })
}

fn named_layer(words: Words<'_>, arguments: &Arguments) -> Result<(String, String), UsageError> {
    let (name, rest) = named(words)?;
    Ok((name, Pairs::parse(rest, arguments)?.need("layer")?))
}

/// `register name N layer L`, the pairs in any order.
pub(super) fn registration(words: Words<'_>, arguments: &Arguments, register: bool) -> Outcome {
    let mut pairs = Pairs::parse(words, arguments)?;
    let (name, layer) = (flow_name(pairs.need("name")?)?, pairs.need("layer")?);
    Ok(if register {
        Command::Register { name, layer }
    } else {
        Command::Unregister { name, layer }
    })
}

fn ip(text: &str) -> Result<IpAddr, UsageError> {
    text.parse().map_err(|_| {
        let error = match text.contains('/') {
            true => InvalidScopedAddress::Prefix,
            false => InvalidScopedAddress::Address,
        };
        UsageError::Value { keyword: "ip", value: text.to_owned(), reason: error.reason() }
    })
}
