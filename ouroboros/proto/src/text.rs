//! Values that are serialized as text: as they print and parse, or in hexadecimal digits.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserializer, de};

/// Serializes types by `Display` and deserializes them by `FromStr`.
macro_rules! serialize_as_text {
    ($($type:ty),* $(,)?) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::text::parsed(deserializer)
            }
        }
    )*};
}

pub(crate) use serialize_as_text;

/// Deserializes a value from its text. No copy of the text is made.
pub(crate) fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Text<T>(PhantomData<T>);
    impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text(PhantomData))
}

/// Bytes in hexadecimal digits.
pub(crate) struct Hexadecimal<T>(pub(crate) T);

/// The text is not hexadecimal, or of another length.
#[derive(Debug, thiserror::Error)]
#[error("not so many hexadecimal digits")]
pub(crate) struct NotHexadecimal;

impl<T: AsRef<[u8]>> fmt::Display for Hexadecimal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn digits(text: &str) -> Option<impl ExactSizeIterator<Item = Option<u8>>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let bytes =
        pairs.iter().map(move |[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8));
    rest.is_empty().then_some(bytes)
}

impl FromStr for Hexadecimal<Vec<u8>> {
    type Err = NotHexadecimal;

    fn from_str(text: &str) -> Result<Self, NotHexadecimal> {
        let bytes = digits(text).and_then(|bytes| bytes.collect::<Option<_>>());
        bytes.map(Self).ok_or(NotHexadecimal)
    }
}

impl<const SIZE: usize> FromStr for Hexadecimal<[u8; SIZE]> {
    type Err = NotHexadecimal;

    fn from_str(text: &str) -> Result<Self, NotHexadecimal> {
        let digits = digits(text).filter(|digits| digits.len() == SIZE);
        let mut bytes = [0; SIZE];
        for (byte, digit) in bytes.iter_mut().zip(digits.ok_or(NotHexadecimal)?) {
            *byte = digit.ok_or(NotHexadecimal)?;
        }
        Ok(Self(bytes))
    }
}

serialize_as_text!(Hexadecimal<Vec<u8>>);
