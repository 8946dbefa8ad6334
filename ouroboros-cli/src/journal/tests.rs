use std::{io::Read, mem::MaybeUninit};

use ouroboros_testing::Folder;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tracing::subscriber::with_default;
use tracing_subscriber::{Registry, layer::SubscriberExt};

use super::*;

/// What a socket that stands for the journal's gets while `log` runs: one entry.
fn entry(log: impl FnOnce()) -> Vec<u8> {
    let folder = Folder::new();
    let path = folder.path().join("socket");
    let journal = UnixDatagram::bind(&path).expect("bound");
    let layer = Journal::at(&path).expect("there");
    with_default(Registry::default().with(layer), log);
    let mut data = vec![0; 64 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [io::IoSliceMut::new(&mut data)];
    let got = recvmsg(&journal, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC);
    let size = got.expect("an entry").bytes;
    data.truncate(size);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            for file in files {
                // Its offset is shared with whoever wrote it.
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).expect("a file");
                std::fs::File::from(file).read_to_end(&mut data).expect("readable");
            }
        }
    }
    data
}

/// The fields of an entry, parsed as the journal does.
fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|byte| *byte == b'\n').expect("a line");
        let line = std::str::from_utf8(&entry[..end]).expect("text");
        entry = &entry[end + 1..];
        match line.split_once('=') {
            Some((name, value)) => fields.push((name.to_owned(), value.to_owned())),
            None => {
                let (length, rest) = entry.split_first_chunk().expect("a length");
                let length = usize::try_from(u64::from_le_bytes(*length)).expect("short");
                let value = std::str::from_utf8(&rest[..length]).expect("text");
                fields.push((line.to_owned(), value.to_owned()));
                assert_eq!(rest[length], b'\n');
                entry = &rest[length + 1..];
            }
        }
    }
    fields
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

#[test]
fn an_event_has_its_fields_its_priority_and_a_line_for_people() {
    let entry = entry(|| {
        tracing::warn!(layer = "internet", flow = 7, peer = %"192.0.2.1:3435", "a peer is slow");
    });
    let fields = fields(&entry);
    for (name, value) in [
        ("MESSAGE", "a peer is slow layer=internet flow=7 peer=192.0.2.1:3435"),
        ("PRIORITY", "4"),
        ("OUROBOROS_LAYER", "internet"),
        ("OUROBOROS_FLOW", "7"),
        ("OUROBOROS_PEER", "192.0.2.1:3435"),
        ("OUROBOROS_TARGET", "ouroboros_cli::journal::tests"),
    ] {
        assert_eq!(field(&fields, name), Some(value), "{name}");
    }
    assert!(field(&fields, "SYSLOG_IDENTIFIER").is_some_and(|program| !program.is_empty()));
}

#[test]
fn values_of_several_lines_stay_one_field_and_can_forge_none() {
    let entry = entry(|| tracing::info!(name = "a\nPRIORITY=0", "told"));
    let fields = fields(&entry);
    assert_eq!(field(&fields, "OUROBOROS_NAME"), Some("a\nPRIORITY=0"));
    assert_eq!(field(&fields, "PRIORITY"), Some("6"));
    assert_eq!(fields.iter().filter(|(name, _)| name == "PRIORITY").count(), 1);
}

#[test]
fn what_is_too_long_for_a_datagram_is_sent_as_a_file() {
    let long = "x".repeat(4 << 20);
    let entry = entry(|| tracing::error!(detail = long.as_str(), "long"));
    assert_eq!(field(&fields(&entry), "OUROBOROS_DETAIL"), Some(long.as_str()));
}

#[test]
fn a_journal_that_nobody_serves_is_none() {
    let folder = Folder::new();
    assert!(Journal::at(&folder.path().join("socket")).is_err());
}
