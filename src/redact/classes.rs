//! Classes of bytes, by which the search finds its way.

use crate::redact::run::Run;
use crate::redact::shape::Shape;
use crate::redact::value;

/// The number of bytes in a block: as many as there are bits in half of a `u64`.
pub(super) const BLOCK: usize = 32;

/// A character of a run: of tokens, of escapes, or of the keys of a format.
pub(super) const IN_RUN: u8 = 1;
/// A character of runs that is none of tokens.
pub(super) const IN_NO_TOKEN: u8 = 2;
/// A character that ends a lead.
pub(super) const ENDS_LEAD: u8 = 4;
/// A character before the last one of a lead.
pub(super) const ENDS_LEAD_BUT_ONE: u8 = 8;

/// The classes of all bytes.
#[derive(Clone)]
pub(super) struct Classes {
    /// For each byte, what it may be.
    table: [u8; 256],
    /// For each byte, whether it is in a run. Without a mask, it is read faster.
    in_run: [bool; 256],
}

impl Classes {
    pub(super) fn new(shapes: &[Shape], value: Run) -> Self {
        let mut table = [0; 256];
        for byte in 0..128u8 {
            let entry = &mut table[usize::from(byte)];
            let is_in_key = value.contains(byte) || shapes.iter().any(|it| it.contains(byte));
            if value::is_token(byte) {
                *entry |= IN_RUN;
            } else if is_in_key || matches!(byte, b'%' | b'\\') {
                *entry |= IN_RUN | IN_NO_TOKEN;
            }
            if shapes.iter().any(|shape| shape.ends_with(byte)) {
                *entry |= ENDS_LEAD;
            }
            if shapes.iter().any(|shape| shape.ends_but_one_with(byte)) {
                *entry |= ENDS_LEAD_BUT_ONE;
            }
        }
        Self {
            in_run: table.map(|class| class & IN_RUN != 0),
            table,
        }
    }

    /// Returns the classes of a byte.
    pub(super) fn of(&self, byte: u8) -> u8 {
        self.table[usize::from(byte)]
    }

    /// Returns whether a byte is in one of some classes.
    pub(super) fn is(&self, byte: u8, classes: u8) -> bool {
        self.of(byte) & classes != 0
    }

    /// Returns a bit for each byte of a block: whether it is in a run.
    pub(super) fn bits_of(&self, block: &[u8; BLOCK]) -> u32 {
        let bits = block.iter().enumerate();
        bits.fold(0, |bits, (at, byte)| {
            bits | u32::from(self.in_run[usize::from(*byte)]) << at
        })
    }
}
