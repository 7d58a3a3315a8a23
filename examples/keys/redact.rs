//! Redaction of standard input.

use std::io::{self, ErrorKind, Read as _, Write};

use tower_api_key::redact::Redactor;

use crate::call::Call;
use crate::failure::Failure;
use crate::scanner_rules::formats;

/// The number of bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// Copies standard input to standard output without the keys in it. If nobody reads the output, it
/// ends without an error.
pub(crate) fn redact(call: &Call) -> Result<(), Failure> {
    let redactor = match formats(call)? {
        none if none.is_empty() => Redactor::new(), // of the formats of this program
        formats => Redactor::of(formats),
    };
    match copy(&redactor) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn copy(redactor: &Redactor) -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut output = redactor.writer(io::stdout().lock());
    let mut piece = vec![0; PIECE];
    loop {
        let count = match input.read(&mut piece) {
            Ok(0) => return output.finish(),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        output.write_all(&piece[..count])?;
        // What comes later may take long, as from `tail -f`.
        output.flush()?;
    }
}
