//! Where a statement ends: at a semicolon that stands in no quotes, comments, parentheses or `begin atomic` body, as
//! `psql` has it.

use super::script::Statement;

/// No longer tag of a dollar quote is looked for.
const MAX_TAG_BYTES: usize = 64;

/// What the text fed to a [`Cutter`] came to.
pub(super) enum Cut {
    /// A statement ended after so many bytes.
    Statement { length: usize },
    /// A backslash, after so many bytes.
    Command { length: usize },
    /// The line ended.
    Line,
}

/// Puts lines together to statements.
#[derive(Default)]
pub(super) struct Cutter {
    pub(super) sql: Vec<u8>,
    /// The line that the statement begins in.
    pub(super) line: u64,
    within: Within,
    parentheses: usize,
    /// Of `begin` and `case`, in the body of a function or procedure.
    blocks: usize,
    /// The first words, which tell whether it makes a function.
    words: Vec<Vec<u8>>,
}

/// What the next byte is a part of.
#[derive(Default, PartialEq)]
enum Within {
    #[default]
    Statement,
    BlockComment(usize),
    /// A string; whether a backslash in it escapes what follows.
    String {
        escapes: bool,
    },
    Identifier,
    Dollar(Vec<u8>),
}

impl Cutter {
    /// Goes on with the rest of a line.
    pub(super) fn feed(&mut self, text: &[u8], line: u64) -> Cut {
        let mut at = 0;
        while at < text.len() {
            let length = match &mut self.within {
                Within::BlockComment(depth) => {
                    let (deeper, length) = match &text[at..] {
                        [b'/', b'*', ..] => (*depth + 1, 2),
                        [b'*', b'/', ..] => (*depth - 1, 2),
                        _ => (*depth, 1),
                    };
                    *depth = deeper;
                    if deeper == 0 { self.leave(length) } else { length }
                }
                Within::String { escapes } => match &text[at..] {
                    [b'\\', _, ..] if *escapes => 2,
                    [b'\'', b'\'', ..] => 2,
                    [b'\'', ..] => self.leave(1),
                    _ => 1,
                },
                Within::Identifier if text[at] == b'"' => self.leave(1),
                Within::Dollar(tag) if text[at..].starts_with(tag) => {
                    let length = tag.len();
                    self.leave(length)
                }
                Within::Identifier | Within::Dollar(_) => 1,
                Within::Statement => match self.step(text, at, line) {
                    Step::On(length) => length,
                    Step::Cut(cut) => return cut,
                },
            };
            if !self.is_empty() {
                self.sql.extend_from_slice(&text[at..at + length]);
            }
            at += length;
        }
        Cut::Line
    }

    fn leave(&mut self, length: usize) -> usize {
        self.within = Within::Statement;
        length
    }

    /// One sign or word outside of quotes and comments.
    fn step(&mut self, text: &[u8], at: usize, line: u64) -> Step {
        match text[at] {
            byte if byte.is_ascii_whitespace() => return Step::On(1),
            b'-' if text[at + 1..].starts_with(b"-") => {
                // Within a statement it is a part of its text.
                return if self.is_empty() {
                    Step::Cut(Cut::Line)
                } else {
                    Step::On(text.len() - at)
                };
            }
            b'/' if text[at + 1..].starts_with(b"*") => {
                self.within = Within::BlockComment(1);
                return Step::On(2);
            }
            b'\\' => return Step::Cut(Cut::Command { length: at + 1 }),
            b';' if self.parentheses == 0 && self.blocks == 0 => {
                let length = at + 1;
                // Nothing at all is no statement.
                return if self.is_empty() {
                    Step::On(1)
                } else {
                    Step::Cut(Cut::Statement { length })
                };
            }
            _ => {}
        }
        if self.is_empty() {
            self.line = line;
        }
        Step::On(self.token(text, at))
    }

    /// The length of what begins here, and what it means for what follows.
    fn token(&mut self, text: &[u8], at: usize) -> usize {
        match text[at] {
            b'(' => self.parentheses += 1,
            b')' => self.parentheses = self.parentheses.saturating_sub(1),
            b'\'' => self.within = Within::String { escapes: false },
            b'"' => self.within = Within::Identifier,
            b'$' => {
                if let Some(tag) = dollar_tag(&text[at..]) {
                    self.begin(&text[at..at + tag]);
                    self.within = Within::Dollar(text[at..at + tag].to_vec());
                    return tag;
                }
            }
            byte if is_word_byte(byte) => {
                let length = text[at..].iter().take_while(|byte| is_in_word(**byte)).count();
                let word = &text[at..at + length];
                if word.eq_ignore_ascii_case(b"e") && text.get(at + 1) == Some(&b'\'') {
                    self.begin(word);
                    self.within = Within::String { escapes: true };
                    return 2;
                }
                self.word(word);
                self.begin(word);
                return length;
            }
            _ => {}
        }
        self.begin(&text[at..=at]);
        1
    }

    /// What comes first makes a statement of nothing.
    fn begin(&mut self, token: &[u8]) {
        if self.words.is_empty() {
            self.words.push(token.to_ascii_lowercase());
        }
    }

    fn word(&mut self, word: &[u8]) {
        let word = word.to_ascii_lowercase();
        if self.parentheses == 0 && self.makes_function() {
            match word.as_slice() {
                b"begin" => self.blocks += 1,
                b"case" if self.blocks > 0 => self.blocks += 1,
                b"end" => self.blocks = self.blocks.saturating_sub(1),
                _ => {}
            }
        }
        if self.words.len() < 4 {
            self.words.push(word);
        }
    }

    /// `create [or replace] function | procedure`, as `psql` looks for it.
    fn makes_function(&self) -> bool {
        let words: Vec<&[u8]> = self.words.iter().map(Vec::as_slice).collect();
        matches!(
            words[..],
            [b"create", b"function" | b"procedure", ..]
                | [b"create", b"or", b"replace", b"function" | b"procedure"]
        )
    }

    /// Whether no statement is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether nothing is under way, not even a comment.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_empty() && self.within == Within::Statement
    }

    /// The statement that has ended; the line of one that is no text.
    pub(super) fn take(&mut self) -> Result<Statement, u64> {
        let Self { sql, line, .. } = std::mem::take(self);
        let mut sql = String::from_utf8(sql).map_err(|_| line)?;
        sql.truncate(sql.trim_end().len());
        Ok(Statement { sql, line })
    }
}

enum Step {
    On(usize),
    Cut(Cut),
}

/// The length of a dollar quote's opening, such as `$$` or `$body$`.
fn dollar_tag(text: &[u8]) -> Option<usize> {
    let tag = text[1..].iter().take(MAX_TAG_BYTES).take_while(|byte| is_tag_byte(**byte)).count();
    let begins_well = text.get(1).is_some_and(|byte| !byte.is_ascii_digit());
    (begins_well && text.get(tag + 1) == Some(&b'$')).then_some(tag + 2)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

fn is_tag_byte(byte: u8) -> bool {
    is_word_byte(byte) || byte.is_ascii_digit()
}

fn is_in_word(byte: u8) -> bool {
    is_tag_byte(byte) || byte == b'$'
}
