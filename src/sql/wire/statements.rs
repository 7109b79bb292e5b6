//! [`Statements`]: which texts a session has prepared, and under which names.
//!
//! Invariant: a name is used for one text in the life of a session, so a name that was forgotten too early
//! costs memory on the server, never a wrong statement.

use std::collections::HashMap;

/// Most statements that one session keeps prepared.
const CAPACITY: usize = 100;
/// Longer texts are prepared each time.
const MAX_TEXT_LEN: usize = 8 * 1024;

#[derive(Debug, Default)]
pub(super) struct Statements {
    known: HashMap<String, Known>,
    /// Names that the server still keeps and nobody uses any more.
    doomed: Vec<String>,
    /// Counts uses, so that the oldest can be told.
    clock: u64,
    names: u64,
}

#[derive(Debug)]
struct Known {
    name: String,
    used: u64,
}

/// How much is remembered of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sql) enum Preparing {
    /// It is prepared once, and kept.
    Kept,
    /// What is known is used, and nothing is added.
    Known,
    /// It is prepared as if for the first time, and not kept.
    Anew,
}

/// How a statement is sent.
#[derive(Debug)]
pub(super) enum Choice {
    /// By the name under which it was prepared.
    Known(String),
    /// Prepared under a new name.
    Prepare(String),
    /// Prepared for this once.
    Once,
}

impl Choice {
    pub fn name(&self) -> &str {
        match self {
            Self::Known(name) | Self::Prepare(name) => name,
            Self::Once => "",
        }
    }

    pub fn is_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }
}

impl Statements {
    /// How to send a text.
    pub fn choose(&mut self, text: &str, preparing: Preparing) -> Choice {
        if preparing == Preparing::Anew {
            return Choice::Once;
        }
        self.clock += 1;
        if let Some(known) = self.known.get_mut(text) {
            known.used = self.clock;
            return Choice::Known(known.name.clone());
        }
        if preparing == Preparing::Known || text.len() > MAX_TEXT_LEN {
            return Choice::Once;
        }
        if self.known.len() >= CAPACITY {
            self.evict();
        }
        self.names += 1;
        Choice::Prepare(format!("s{}", self.names))
    }

    /// The server has prepared it.
    pub fn prepared(&mut self, text: &str, choice: &Choice) {
        if let Choice::Prepare(name) = choice {
            let known = Known { name: name.clone(), used: self.clock };
            self.known.insert(text.to_owned(), known);
        }
    }

    /// This text is prepared anew from now on.
    pub fn forget(&mut self, text: &str) {
        self.doomed.extend(self.known.remove(text).map(|known| known.name));
    }

    /// Every statement is prepared anew from now on.
    pub fn forget_all(&mut self) {
        self.doomed.extend(self.known.drain().map(|(_, known)| known.name));
    }

    /// The names to close on the server.
    pub fn take_doomed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.doomed)
    }

    /// Makes room in place of the one that was not used for longest.
    fn evict(&mut self) {
        let oldest = self.known.iter().min_by_key(|(_, known)| known.used);
        if let Some(text) = oldest.map(|(text, _)| text.clone()) {
            self.forget(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepare(statements: &mut Statements, text: &str) -> Choice {
        let choice = statements.choose(text, Preparing::Kept);
        statements.prepared(text, &choice);
        choice
    }

    #[test]
    fn a_text_is_prepared_once() {
        let mut statements = Statements::default();

        let first = prepare(&mut statements, "select 1");

        assert!(matches!(&first, Choice::Prepare(_)));
        assert_eq!(statements.choose("select 1", Preparing::Kept).name(), first.name());
        assert!(statements.choose("select 1", Preparing::Kept).is_known());
    }

    #[test]
    fn the_one_not_used_for_longest_makes_room() {
        let mut statements = Statements::default();
        for number in 0..CAPACITY {
            prepare(&mut statements, &format!("select {number}"));
        }
        statements.choose("select 0", Preparing::Kept);

        prepare(&mut statements, "select 'new'");

        assert_eq!(statements.take_doomed(), ["s2"]);
        assert_eq!(statements.known.len(), CAPACITY);
    }

    #[test]
    fn long_texts_and_those_not_worth_it_are_not_kept() {
        let mut statements = Statements::default();
        let long = "x".repeat(MAX_TEXT_LEN + 1);

        assert!(matches!(statements.choose("set x = 1", Preparing::Known), Choice::Once));
        assert!(matches!(statements.choose(&long, Preparing::Kept), Choice::Once));
    }

    #[test]
    fn what_is_known_does_not_count_when_a_text_is_prepared_anew() {
        let mut statements = Statements::default();
        prepare(&mut statements, "select 1");

        assert!(matches!(statements.choose("select 1", Preparing::Anew), Choice::Once));
        statements.forget("select 1");
        assert!(!statements.choose("select 1", Preparing::Kept).is_known());
    }

    #[test]
    fn a_name_is_never_used_again() {
        let mut statements = Statements::default();
        let first = prepare(&mut statements, "select 1").name().to_owned();
        statements.forget_all();

        assert_ne!(prepare(&mut statements, "select 1").name(), first);
        assert_eq!(statements.take_doomed(), [first]);
    }
}
