//! Notices that a stream gives beside its data. Not here: how they travel (`outgoing`).

/// A notice that is sent until the peer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Unused,
    Due(u32),
    InFlight(u32),
    Acked(u32),
}

impl Notice {
    pub(super) fn is_due(self) -> bool {
        matches!(self, Self::Due(_))
    }

    pub(super) fn code(self) -> Option<u32> {
        match self {
            Self::Unused => None,
            Self::Due(code) | Self::InFlight(code) | Self::Acked(code) => Some(code),
        }
    }

    pub(super) fn raise(&mut self, code: u32) {
        if *self == Self::Unused {
            *self = Self::Due(code);
        }
    }

    pub(super) fn sent(&mut self) {
        if let Self::Due(code) = *self {
            *self = Self::InFlight(code);
        }
    }

    pub(super) fn acked(&mut self) {
        if let Some(code) = self.code() {
            *self = Self::Acked(code);
        }
    }

    pub(super) fn lost(&mut self) {
        if let Self::InFlight(code) = *self {
            *self = Self::Due(code);
        }
    }
}
