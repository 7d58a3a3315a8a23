//! What is written as a key, and what is not: the crate's parser against a second one that is
//! written here, bit by bit.
//!
//! A changed key may pass a checksum of 32 bits, and a fuzzer may find one that does. So the
//! question is not whether a text was changed, but whether both parsers say the same of it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tower_api_key::Environment;
use tower_api_key::key::{Alphabet, KeyFormat};

const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const CHECKSUM: usize = 6;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    for kind in KINDS.iter() {
        kind.check(&text);
        kind.check(&format!("{}{text}", kind.lead));
        match &kind.body {
            Body::Issued { .. } => {
                let key = kind.format.generate().expect("there is randomness");
                kind.check(key.expose_secret());
                assert!(kind.format.matches(key.expose_secret()));
                kind.check(&String::from_utf8_lossy(&mutated(
                    key.expose_secret(),
                    input,
                )));
            }
            Body::Imported { alphabet, .. } => {
                let spelled = input.iter().map(|byte| {
                    let digit = usize::from(*byte) % alphabet.len();
                    char::from(alphabet[digit])
                });
                kind.check(&format!("{}{}", kind.lead, String::from_iter(spelled)));
            }
        }
    }
    check_prefix(&text, input.len());
    check_imported(input);
});

/// A format, and what this target knows of it.
struct Kind {
    format: KeyFormat,
    lead: &'static str,
    body: Body,
}

enum Body {
    Issued {
        secret: usize,
        checksum: bool,
    },
    Imported {
        alphabet: &'static [u8],
        shortest: usize,
        longest: usize,
    },
}

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let issued = |prefix, bytes| {
        let format = KeyFormat::new(prefix, Environment::LIVE).expect("a good prefix");
        format.secret_bytes(bytes).expect("a good number of bytes")
    };
    let imported = |lead, alphabet, length| {
        KeyFormat::imported(lead, alphabet, length, Environment::LIVE).expect("a good format")
    };
    vec![
        Kind {
            format: issued("sk_live", 32),
            lead: "sk_live_",
            body: Body::Issued {
                secret: 43,
                checksum: true,
            },
        },
        Kind {
            format: issued("a_b__C", 64),
            lead: "a_b__C_",
            body: Body::Issued {
                secret: 86,
                checksum: true,
            },
        },
        Kind {
            format: issued("sk", 16).without_checksum(),
            lead: "sk_",
            body: Body::Issued {
                secret: 22,
                checksum: false,
            },
        },
        Kind {
            format: imported("", Alphabet::UUID, 36..=36),
            lead: "",
            body: Body::Imported {
                alphabet: b"0123456789abcdef-",
                shortest: 36,
                longest: 36,
            },
        },
        Kind {
            format: imported("acme_-", Alphabet::from_static("x_-~"), 56..=58),
            lead: "acme_-",
            body: Body::Imported {
                alphabet: b"x_-~",
                shortest: 56,
                longest: 58,
            },
        },
    ]
});

impl Kind {
    /// Both parsers must say the same of a text.
    fn check(&self, text: &str) {
        let expected = self.second_opinion(text.as_bytes());
        assert_eq!(
            self.format.matches(text),
            expected,
            "{text:?} as a key that begins with {:?}",
            self.lead
        );
    }

    fn second_opinion(&self, text: &[u8]) -> bool {
        let lead = self.lead.len();
        if text.len() < lead || &text[..lead] != self.lead.as_bytes() {
            return false;
        }
        let rest = &text[lead..];
        match self.body {
            Body::Imported {
                alphabet,
                shortest,
                longest,
            } => {
                let in_alphabet = rest.iter().all(|byte| alphabet.contains(byte));
                rest.len() >= shortest && rest.len() <= longest && in_alphabet
            }
            Body::Issued { secret, checksum } => {
                let length = if checksum { secret + CHECKSUM } else { secret };
                if rest.len() != length || !rest.iter().all(|byte| BASE62.contains(byte)) {
                    return false;
                }
                !checksum || number(&rest[secret..]) == u64::from(crc32(&rest[..secret]))
            }
        }
    }
}

/// A key, changed as the input says: three bytes for each change.
fn mutated(key: &str, input: &[u8]) -> Vec<u8> {
    let mut text = key.as_bytes().to_vec();
    for change in input.chunks_exact(3) {
        let (what, byte) = (change[0], change[2]);
        let at = usize::from(change[1]) % (text.len() + 1);
        let inside = at < text.len();
        match what % 6 {
            0 if inside => text[at] = byte,
            1 if inside => text[at] ^= 0x20, // the other case of a letter
            2 if inside => drop(text.remove(at)),
            3 => text.truncate(at),
            4 => text.insert(at, byte),
            5 => text.push(0),
            _ => {}
        }
    }
    text
}

/// A prefix is accepted by its rule, and keys with it are as long as their bytes need.
fn check_prefix(prefix: &str, bytes: usize) {
    let characters = prefix.as_bytes();
    let expected = (1..=32).contains(&characters.len())
        && characters
            .iter()
            .all(|byte| BASE62.contains(byte) || *byte == b'_')
        && characters[0] != b'_'
        && characters[characters.len() - 1] != b'_';
    let format = KeyFormat::new(prefix, Environment::LIVE);
    assert_eq!(format.is_ok(), expected, "the prefix {prefix:?}");
    let Ok(format) = format else { return };

    let format = format.secret_bytes(bytes);
    assert_eq!(format.is_ok(), (16..=64).contains(&bytes), "{bytes} bytes");
    let Ok(format) = format else { return };
    let digits = (8.0 * bytes as f64 / 62f64.log2()).ceil() as usize;
    let key = format.generate().expect("there is randomness");
    let text = key.expose_secret();
    assert_eq!(text.len(), prefix.len() + 1 + digits + CHECKSUM);
    assert!(format.matches(text));
}

/// A format of imported keys is accepted only if its longest key has at most 512 characters.
fn check_imported(input: &[u8]) {
    let [shortest, longest, lead @ ..] = input else {
        return;
    };
    let length = |byte: u8| match byte {
        u8::MAX => usize::MAX,
        byte => 3 * usize::from(byte),
    };
    let (shortest, longest) = (length(*shortest), length(*longest));
    let lead = String::from_utf8_lossy(lead);
    let visible = lead.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    let longest_key = lead.len() as u128 + longest as u128;
    let expected =
        lead.len() <= 32 && visible && 1 <= shortest && shortest <= longest && longest_key <= 512;
    let lengths = shortest..=longest;
    let format =
        KeyFormat::dangerous_guessable(&lead, Alphabet::HEX, lengths.clone(), Environment::LIVE);
    assert_eq!(format.is_ok(), expected, "{lengths:?} behind {lead:?}");
}

/// The number that digits of base 62 spell.
fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number, digit| {
        let value = BASE62.iter().position(|known| known == digit);
        number * 62 + value.expect("a digit") as u64
    })
}

/// CRC-32 as Ethernet and zip have it.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc >>= 1;
            if low == 1 {
                crc ^= 0xedb8_8320;
            }
        }
    }
    !crc
}
