//! An allocation header and the extensions in it. The bytes: one for the length
//! of the request hash, then the header.

use ouroboros::{
    proto::negotiation::screen,
    wire::{extension::Extensions, oap::Allocation},
};

const HASHES: [usize; 5] = [0, 28, 32, 48, 64];

pub(crate) fn body(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    check_extensions(bytes);
    let hash = HASHES[usize::from(*choice) % HASHES.len()];
    let Ok(header) = Allocation::parse(bytes, hash) else { return };
    assert_eq!(header.encode().as_deref(), Some(bytes), "the header is all of its bytes");
    assert_eq!(header.request_hash.len(), hash);
    assert_eq!(header.certificate.is_empty(), header.signature.is_empty());
    check_extensions(header.data);
    if let Ok(asked) = screen(&header) {
        let extensions = Extensions::parse(header.data).expect("what is malformed is refused");
        assert_eq!(asked.encrypted, header.cipher != 0, "a cipher makes it encrypted");
        assert_eq!(asked.encrypted, !header.key.is_empty(), "and so does a key");
        assert_eq!(asked.native, asked.encrypted && extensions.profile.is_some());
        assert_eq!(asked.cookie, extensions.cookie);
    }
}

fn check_extensions(data: &[u8]) {
    let Ok(extensions) = Extensions::parse(data) else {
        assert!(data.starts_with(b"o7s\x01"), "what is not ours is not malformed");
        return;
    };
    let encoded = extensions.encode();
    assert!(encoded.len() <= data.len(), "nothing is made up");
    assert_eq!(Extensions::parse(&encoded), Ok(extensions));
    if let Some(lane) = extensions.lane {
        assert!(lane.index < lane.lanes);
    }
    if let Some(cookie) = extensions.cookie {
        assert!((1..=255).contains(&cookie.len()));
    }
}
