//! Settings of restores to a point in time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::reader::Reader;
use super::value::{List, Value};
use crate::operations::ArchiveSettings;

/// Reads where the WAL archives of servers are; none when no stanza is named.
pub(super) fn read(r: &mut Reader) -> Option<Box<ArchiveSettings>> {
    let config: Option<PathBuf> = r.get("pitr_config");
    if !r.is_set("pitr_stanzas") {
        return None;
    }
    let stanzas = r.get("pitr_stanzas").map(|Stanzas(stanzas)| stanzas);
    let scratch_dir = r.require(
        "pitr_scratch_dir",
        "a directory with room for a whole server, which a restore to a point in time uses for a while",
    );
    let (stanzas, scratch_dir) = stanzas.zip(scratch_dir)?;
    Some(Box::new(ArchiveSettings { config, stanzas, scratch_dir }))
}

/// What pgBackRest calls servers.
struct Stanzas(BTreeMap<String, String>);

impl Value for Stanzas {
    const EXPECTED: &'static str =
        "list of servers and stanzas of pgBackRest, such as `default=main,eu-2=eu2`";

    fn read(text: &str) -> Result<Self, Option<String>> {
        let List(parts) = List::read(text).map_err(|_| None)?;
        let pair = |part: &String| {
            let (server, stanza) = part.split_once('=')?;
            let (server, stanza) = (server.trim(), stanza.trim());
            let is_whole = !server.is_empty() && !stanza.is_empty();
            is_whole.then(|| (server.to_owned(), stanza.to_owned()))
        };
        parts.iter().map(pair).collect::<Option<_>>().map(Self).ok_or(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_its_stanza() {
        let Stanzas(stanzas) = Stanzas::read("default=main, eu-2 = eu2").unwrap();

        assert_eq!(stanzas["default"], "main");
        assert_eq!(stanzas["eu-2"], "eu2");
        for text in ["main", "default=", "=main", "default=main,"] {
            assert!(Stanzas::read(text).is_err(), "{text}");
        }
    }
}
