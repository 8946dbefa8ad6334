//! `enc.conf`: the encryption of a name, as `irm name create` reads it. Lines
//! of `kex=`, `kdf=` and `cipher=`, or `none`; `#` begins a comment.

use ouroboros::{crypto::Suite, daemon::protocol::Security};

/// A line of the file makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct BadLine {
    line: usize,
    reason: String,
}

/// The encryption that the text of an `enc.conf` asks for. What it does not
/// mention keeps its default.
///
/// # Errors
///
/// A line is no setting, or names an unknown algorithm.
pub fn parse(text: &str) -> Result<Security, BadLine> {
    let mut suite = Suite::default();
    let mut none = false;
    for (index, line) in text.lines().enumerate() {
        let bad = |reason: String| BadLine { line: index + 1, reason };
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
            None if line.is_empty() => {}
            None if line == "none" => none = true,
            Some(("kex", value)) => suite.kex = value.parse().map_err(|e| bad(format!("{e}")))?,
            Some(("kdf", value)) => suite.kdf = value.parse().map_err(|e| bad(format!("{e}")))?,
            Some(("cipher", value)) => {
                suite.cipher = value.parse().map_err(|e| bad(format!("{e}")))?;
            }
            _ => return Err(bad(format!("{line}: not kex=, kdf=, cipher= or none"))),
        }
    }
    Ok(if none { Security::None } else { Security::Suite(suite.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_change_the_default_and_none_overrides_them() {
        let suite = |text: &str| match parse(text) {
            Ok(Security::Suite(names)) => Some((names.kex, names.kdf, names.cipher)),
            _ => None,
        };
        let names = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(suite(""), names("X25519", "sha256", "aes-256-gcm"));
        assert_eq!(
            suite("# ours\nkex=prime256v1\n kdf = sha512 # strong\ncipher=chacha20-poly1305\n"),
            names("prime256v1", "sha512", "chacha20-poly1305")
        );
        assert_eq!(parse("kex=X25519\nnone"), Ok(Security::None));
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, line) in [("kex=rot13", 1), ("\ncipher=aes-256-ctr", 2), ("kex", 1), ("a=b", 1)]
        {
            assert_eq!(parse(text).expect_err(text).line, line, "{text}");
        }
    }
}
