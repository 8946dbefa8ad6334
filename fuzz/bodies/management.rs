//! A management message, in either dialect. The bytes: one for dialect and
//! directory hash, then the message.

use ouroboros::wire::{
    Dialect, DirectoryHash,
    management::{LARGEST_MESSAGE, Message},
};

const HASHES: [DirectoryHash; 5] = [
    DirectoryHash::Md5,
    DirectoryHash::Sha3_224,
    DirectoryHash::Sha3_256,
    DirectoryHash::Sha3_384,
    DirectoryHash::Sha3_512,
];

pub(crate) fn body(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let dialect = if choice & 1 == 0 { Dialect::EthDix } else { Dialect::Udp };
    let hash = HASHES[usize::from(choice >> 1) % HASHES.len()];
    let Ok(message) = Message::parse(dialect, hash, bytes) else { return };
    assert!(bytes.len() <= LARGEST_MESSAGE);
    let encoded = message.encode(dialect);
    assert_eq!(encoded.len(), bytes.len(), "nothing is added or left out");
    assert_eq!(Message::parse(dialect, hash, &encoded), Ok(message));
    match message {
        Message::FlowRequest { name, allocation, .. } => {
            assert_eq!(name.as_bytes().len(), hash.size());
            assert!(bytes.ends_with(allocation));
        }
        Message::FlowReply { allocation, .. } => assert!(bytes.ends_with(allocation)),
        Message::NameQuery(name) | Message::NameReply(name) => {
            assert_eq!(dialect, Dialect::EthDix);
            assert!(bytes.ends_with(name.as_bytes()));
        }
    }
    // No end cut off is another message of the same content.
    for end in 0..bytes.len() {
        assert_ne!(Message::parse(dialect, hash, &bytes[..end]), Ok(message));
    }
}
