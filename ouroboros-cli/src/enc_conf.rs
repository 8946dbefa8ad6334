//! `enc.conf`: the encryption of a name, as `irm name create` reads it. Lines
//! of `key=value`, or `none`, after which nothing is read; `#` begins a comment.
//!
//! A file that names nothing asks for encryption all the same. What it does not
//! name is no demand (`ouroboros::crypto::Algorithms`).

use std::str::FromStr;

use ouroboros::crypto::{Algorithms, UnknownAlgorithm};

/// A line of the file makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct BadLine {
    line: usize,
    reason: String,
}

impl BadLine {
    /// Returns the reason, without the line's number.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// The words that release 0.23 knows and this library does not have.
const UNSUPPORTED: [&str; 11] = [
    "X448",
    "ffdhe2048",
    "ffdhe3072",
    "ffdhe4096",
    "ML-KEM-512",
    "ML-KEM-768",
    "ML-KEM-1024",
    "X448MLKEM1024",
    "aes-128-ctr",
    "aes-192-ctr",
    "aes-256-ctr",
];

/// The algorithms that the text of an `enc.conf` asks for; `None`: no encryption.
///
/// # Errors
///
/// A line is no setting, or names an algorithm that is unknown or not supported.
pub fn parse(text: &str) -> Result<Option<Algorithms>, BadLine> {
    let mut named = Algorithms::default();
    for (index, line) in text.lines().enumerate() {
        let bad = |reason: String| BadLine { line: index + 1, reason };
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
            None if line.is_empty() => {}
            None if line == "none" => return Ok(None),
            Some(("kex", value)) => named.kex = Some(algorithm(value).map_err(bad)?),
            Some(("kdf", value)) => named.kdf = Some(algorithm(value).map_err(bad)?),
            Some(("cipher", value)) => named.cipher = Some(algorithm(value).map_err(bad)?),
            Some(("digest", value)) => named.digest = Some(algorithm(value).map_err(bad)?),
            Some(("kem_mode", "server")) => {}
            Some(("kem_mode", "client")) => {
                return Err(bad("kem_mode=client is not supported: only kem_mode=server".into()));
            }
            _ => {
                let settings = "kex=, kdf=, cipher=, digest=, kem_mode=server or none";
                return Err(bad(format!("{line}: not {settings}")));
            }
        }
    }
    Ok(Some(named))
}

fn algorithm<T: FromStr<Err = UnknownAlgorithm>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: UnknownAlgorithm| {
        match UNSUPPORTED.iter().find(|known| known.eq_ignore_ascii_case(value)) {
            Some(known) if known.ends_with("-ctr") => {
                format!("{known} does not authenticate packets and is not supported")
            }
            Some(known) => format!("{known} is not supported"),
            None => error.to_string(),
        }
    })
}

#[cfg(test)]
mod tests {
    use ouroboros::crypto::{Cipher, Hash, KeyExchange};

    use super::*;

    fn named(text: &str) -> Algorithms {
        parse(text).expect(text).expect("encryption")
    }

    #[test]
    fn what_is_not_named_is_no_demand_and_none_overrides_what_is() {
        assert_eq!(named(""), Algorithms::default());
        let text = "# ours\nkex=prime256v1\n kdf = sha512 # strong\ncipher=chacha20-poly1305\n";
        let expected = Algorithms {
            kex: Some(KeyExchange::P256),
            kdf: Some(Hash::Sha512),
            cipher: Some(Cipher::ChaCha20Poly1305),
            digest: None,
        };
        assert_eq!(named(text), expected);
        assert_eq!(parse("kex=X25519\nnone\nwhatever follows"), Ok(None));
    }

    #[test]
    fn every_value_of_release_0_23_is_taken_or_said_not_to_be_supported() {
        let hashes = "sha256 sha384 sha512 sha3-256 sha3-384 sha3-512 blake2b512 blake2s256";
        for (key, taken, unsupported) in [
            (
                "kex",
                "prime256v1 secp384r1 secp521r1 X25519 X25519MLKEM768",
                "X448 ffdhe2048 ffdhe3072 ffdhe4096 ML-KEM-512 ML-KEM-768 ML-KEM-1024 X448MLKEM1024",
            ),
            (
                "cipher",
                "aes-128-gcm aes-192-gcm aes-256-gcm chacha20-poly1305",
                "aes-128-ctr aes-192-ctr aes-256-ctr",
            ),
            ("kdf", hashes, ""),
            ("digest", hashes, ""),
            ("kem_mode", "server", "client"),
        ] {
            for value in taken.split_whitespace() {
                let text = format!("{key}={value}");
                assert!(matches!(parse(&text), Ok(Some(_))), "{text}");
            }
            for value in unsupported.split_whitespace() {
                let error = parse(&format!("\n{key}={value}")).expect_err(value);
                assert_eq!(error.line, 2);
                assert!(error.reason.contains("not supported"), "{error}");
                assert!(error.reason.contains(value), "{error}");
            }
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, line) in [("kex=rot13", 1), ("\ncipher=aes-256-ctr", 2), ("kex", 1), ("a=b", 1)]
        {
            assert_eq!(parse(text).expect_err(text).line, line, "{text}");
        }
    }
}
