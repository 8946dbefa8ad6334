//! The header of a packet in order: read and written back.

use ouroboros::wire::frct::{Flags, HEADER, Header};

pub(crate) fn body(data: &[u8]) {
    let Ok((header, payload)) = Header::parse(data) else { return };
    assert_eq!([&header.encode()[..], payload].concat(), data, "nothing is added or left out");
    assert!(payload.is_empty() || header.flags.contains(Flags::DATA));
    assert_eq!(data.len(), HEADER + payload.len());
    let near = header.acknowledgement;
    let window = header.window_near(near);
    assert_eq!(window & 0xff_ffff, header.window);
    let away = window.wrapping_sub(near) as i32;
    assert!((-0x80_0000..0x80_0000).contains(&away), "{away} is not the nearest");
}
