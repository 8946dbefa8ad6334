//! What the two sides of the daemon's socket read: requests, responses with
//! grants of flows, and the messages of a flow's control channel. The bytes: one
//! for which, then a datagram.

use ouroboros::daemon::{
    control::Message,
    protocol::{Request, Response},
};

pub(crate) fn body(data: &[u8]) {
    let Some((choice, datagram)) = data.split_first() else { return };
    match choice & 3 {
        0 => request(datagram),
        1 => response(datagram),
        _ => control(datagram),
    }
}

fn request(datagram: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(datagram) else { return };
    let written = serde_json::to_vec(&request).expect("written");
    assert_eq!(serde_json::from_slice::<Request>(&written).expect("read"), request);
}

fn response(datagram: &[u8]) {
    let Ok(response) = serde_json::from_slice::<Response>(datagram) else { return };
    let written = serde_json::to_vec(&response).expect("written");
    let again = serde_json::from_slice::<Response>(&written).expect("read");
    assert_eq!(serde_json::to_vec(&again).expect("written"), written);
    let Response::Flow(grant) = response else { return };
    let Ok((info, keys)) = grant.open() else { return };
    assert!(written.len() >= info.name.as_str().len());
    assert_eq!(keys.is_some(), info.suite.is_some(), "keys and suite go together");
    if let (Some(keys), Some(suite)) = (keys, info.suite) {
        assert_eq!(keys.cipher(), suite.cipher);
    }
}

fn control(datagram: &[u8]) {
    let Some(message) = Message::parse(datagram) else { return };
    let (head, frame) = message.encode().expect("what can be read can be said");
    assert_eq!([&head, frame].concat(), datagram);
}
