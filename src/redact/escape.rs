//! Escapes: percent-encoding, the escapes of JSON and of `Debug`, and colours of a terminal.

/// The forms in which the character ESC is written.
const ESCAPE_CHARACTERS: [&[u8]; 6] = [b"\x1b", b"\\x1b", b"\\u{1b}", b"\\u001b", b"\\033", b"\\e"];
/// The length of the longest escape that is read: `\u005f`.
const LONGEST: usize = 6;
/// The maximum length of the parameters of a colour, such as `1;38;2;255;100;100`.
pub(super) const COLOUR_PARAMETERS: usize = 48;

/// The result of reading something at a place of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read<T> {
    /// It is not there.
    No,
    /// The text ends before that can be told.
    Cut,
    /// It is there.
    Whole(T),
}

/// An escape in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Escape {
    /// The number of bytes in the text.
    pub(super) length: usize,
    /// The character that it stands for, if that is one character of ASCII.
    pub(super) character: Option<u8>,
}

/// The escape `%25`.
const PERCENT: Escape = Escape {
    length: 3,
    character: Some(b'%'),
};

/// Reads an escape at the start of a text, such as `%20`, `\n` and `\u0022`.
pub(super) fn read(text: &[u8]) -> Read<Escape> {
    let is = |character| {
        Read::Whole(Escape {
            length: 2,
            character: Some(character),
        })
    };
    match text {
        // Encoded twice: `%2520`.
        [b'%', b'2', b'5', digits @ ..] => match read_hex(digits, 2, 3) {
            Read::No => Read::Whole(PERCENT),
            read => read,
        },
        [b'%', digits @ ..] => read_hex(digits, 2, 1),
        [b'\\'] => Read::Cut,
        [b'\\', b'x', digits @ ..] => read_hex(digits, 2, 2),
        [b'\\', b'u', digits @ ..] => read_hex(digits, 4, 2),
        // Quotes in strings, and all of them in Markdown: `sk\_live`.
        [b'\\', character, ..] if is_escapable(*character) => is(*character),
        [b'\\', b't', ..] => is(b'\t'),
        [
            b'\\',
            b'n' | b'r' | b'0' | b'a' | b'b' | b'e' | b'f' | b'v',
            ..,
        ] => is(b'\n'),
        _ => Read::No,
    }
}

fn is_escapable(character: u8) -> bool {
    character.is_ascii_punctuation() && !matches!(character, b'\\' | b'%')
}

/// Reads the hexadecimal digits of an escape, after its first characters.
fn read_hex(text: &[u8], digits: usize, before: usize) -> Read<Escape> {
    let code = &text[..text.len().min(digits)];
    let mut value = 0;
    for byte in code {
        let Some(digit) = char::from(*byte).to_digit(16) else {
            return Read::No;
        };
        value = value * 16 + digit;
    }
    if code.len() < digits {
        return Read::Cut;
    }
    Read::Whole(Escape {
        length: before + digits,
        character: u8::try_from(value).ok().filter(u8::is_ascii),
    })
}

/// Returns whether a place is after the first character of an escape, and before its end.
pub(super) fn is_inside(text: &[u8], at: usize) -> bool {
    (1..LONGEST.min(at + 1)).any(|back| match read(&text[at - back..]) {
        Read::Whole(escape) => escape.length > back,
        Read::Cut => true,
        Read::No => false,
    })
}

/// Returns the escape at the end of a text, if the text ends with one.
pub(super) fn ending(text: &[u8]) -> Option<Escape> {
    if !text.last()?.is_ascii_alphanumeric() {
        return None;
    }
    for length in [2, 3, 4, 5, 6] {
        let Some(at) = text.len().checked_sub(length) else {
            break;
        };
        match read(&text[at..]) {
            Read::Whole(escape) if escape.length == length => return Some(escape),
            _ => {}
        }
    }
    if text.ends_with(b"%25") {
        return Some(PERCENT);
    }
    colour(text)
}

/// Returns the colour at the end of a text, such as `ESC[31m`.
fn colour(text: &[u8]) -> Option<Escape> {
    let (letter, rest) = text.split_last()?;
    if !letter.is_ascii_alphabetic() {
        return None;
    }
    let is_near = |byte: &&u8| is_colour_parameter(**byte);
    let parameters = rest.iter().rev().take_while(is_near);
    let parameters = parameters.take(COLOUR_PARAMETERS).count();
    let (rest, parameters) = rest.split_at(rest.len() - parameters);
    let rest = rest.strip_suffix(b"[")?;
    let mut forms = ESCAPE_CHARACTERS.iter();
    let form = forms.find(|form| rest.ends_with(form));
    // Some programs take out ESC alone. What is left must be more than an index: `list[i`.
    if form.is_none() && !parameters.iter().any(u8::is_ascii_digit) {
        return None;
    }
    Some(Escape {
        length: form.map_or(0, |form| form.len()) + "[".len() + parameters.len() + 1,
        character: None,
    })
}

/// Returns whether a character is one of the parameters of a colour.
pub(super) fn is_colour_parameter(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b';' | b':')
}

/// Reads a character at the start of a text, and returns its length there. Letters and digits are
/// read only as they are, all others also as escapes.
pub(super) fn read_character(text: &[u8], character: u8) -> Read<usize> {
    match text.first() {
        None => return Read::Cut,
        Some(first) if *first == character => return Read::Whole(1),
        Some(_) if character.is_ascii_alphanumeric() => return Read::No,
        Some(_) => {}
    }
    match read(text) {
        Read::Whole(escape) if escape.character == Some(character) => Read::Whole(escape.length),
        Read::Cut => Read::Cut,
        Read::Whole(_) | Read::No => Read::No,
    }
}

/// Returns the text before the character that it ends with, as it is or as an escape. The backslash
/// in `\/` stays.
pub(super) fn before_character(text: &[u8], character: u8) -> Option<&[u8]> {
    let (last, before) = text.split_last()?;
    if *last == character {
        return Some(before);
    }
    // Nearly all other endings differ in the last digit of the escape already.
    let digit = char::from(*last).to_digit(16)?;
    if character.is_ascii_alphanumeric() || digit != u32::from(character % 16) {
        return None;
    }
    let escape = ending(text).filter(|escape| escape.character == Some(character))?;
    Some(&text[..text.len() - escape.length])
}
