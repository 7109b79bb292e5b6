//! Reading a line: the whole of it, and what more than one command takes, which is ids, names, reasons and keys.
//! Whatever is wrong with one of these is wrong usage, and is told in words of ours.

use std::ffi::OsString;

use clap::{Arg, Command, Parser};
use uuid::Uuid;

use super::Error;
use crate::tenant::check_name;

/// Most characters of a reason.
const MAX_REASON_CHARS: usize = 1_000;
/// Digits of a public key of Ed25519.
const KEY_DIGITS: usize = 64;

/// Reads a line. What begins with `-` and is a number stands for a value, and is no option that nobody knows: so
/// whoever expects another value says which.
pub(super) fn read<C: Parser>(
    line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<C, clap::Error> {
    fn taking_numbers(command: Command) -> Command {
        let takes = |arg: Arg| {
            let takes_values = arg.get_action().takes_values();
            arg.allow_negative_numbers(takes_values)
        };
        command.mut_args(takes).mut_subcommands(taking_numbers)
    }
    let mut command = taking_numbers(C::command());
    let mut matches = command.try_get_matches_from_mut(line)?;
    C::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Whether a line, even one that cannot be read, asks for JSON.
pub(super) fn asks_for_json(line: &[OsString]) -> bool {
    let options = line.split(|word| word == "--").next().unwrap_or_default();
    options.iter().any(|word| word == "--output-format=json")
        || options.windows(2).any(|pair| pair[0] == "--output-format" && pair[1] == "json")
}

/// Why a line cannot be read, without the layout that it has on a terminal.
pub(super) fn wrong_usage(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let told = text.strip_prefix("error: ").unwrap_or(&text);
    let (what, help) = told.split_once("\n\n").unwrap_or((told, "see --help"));
    let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let help: Vec<String> = help.split("\n\n").map(line).collect();
    Error::usage(line(what), help.join("\n"))
}

/// Reads an id. `where_from` tells, in a sentence, who shows the ids that there are.
pub(super) fn id(
    where_from: &'static str,
) -> impl Fn(&str) -> Result<Uuid, String> + Clone + Send + Sync + 'static {
    move |text| {
        let wrong =
            |_| format!("an id looks like 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f; {where_from}");
        text.parse().map_err(wrong)
    }
}

/// Reads a name for people.
pub(super) fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// Reads why something is done.
pub(super) fn reason(text: &str) -> Result<String, String> {
    let good = !text.trim().is_empty() && text.chars().count() <= MAX_REASON_CHARS;
    let wrong = || format!("a reason has 1 to {MAX_REASON_CHARS} characters, and is not blank");
    good.then(|| text.to_owned()).ok_or_else(wrong)
}

/// Reads a public key, as `tenantry erasure public-key` prints it.
pub(super) fn public_key(text: &str) -> Result<String, String> {
    let key = text.trim();
    let good = key.len() == KEY_DIGITS && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    let wrong = || {
        format!(
            "a public key has {KEY_DIGITS} hexadecimal digits, as `tenantry erasure public-key` prints them"
        )
    };
    good.then(|| key.to_owned()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_number_below_zero_is_told_what_would_be_right() {
        for line in [
            "tenantry audit-log --limit -5",
            "tenantry backup list --limit -1",
            "tenantry migrate up --concurrency -5",
            "tenantry usage --from -5",
            "tenantry tenant show -5",
        ] {
            let error = read::<Cli>(line.split(' ')).unwrap_err().to_string();
            assert!(error.starts_with("error: invalid value '-"), "{line}: {error}");
        }
    }

    #[test]
    fn whoever_asks_for_json_is_heard_in_a_line_that_is_wrong() {
        for (asks, line) in [
            (true, "tenantry --output-format json nonsense"),
            (true, "tenantry tenant list --colour --output-format=json"),
            (false, "tenantry tenant list --output-format table json"),
            (false, "tenantry tenant show -- --output-format json"),
            (false, "tenantry tenant show json --output-format"),
        ] {
            let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(asks_for_json(&line), asks, "{line:?}");
        }
    }

    #[test]
    fn wrong_usage_is_told_without_layout() {
        for (line, what) in [
            (
                "tenantry tenant create",
                "the following required arguments were not provided: --slug <SLUG>",
            ),
            ("tenantry tenant list --colour", "unexpected argument '--colour' found"),
            ("tenantry tenant --quiet", "'tenantry tenant' requires a subcommand"),
        ] {
            let error = wrong_usage(&read::<Cli>(line.split(' ')).unwrap_err());

            assert!(error.to_string().starts_with(what), "{error}");
            assert!(error.help().unwrap().contains("--help"), "{:?}", error.help());
        }
    }

    #[test]
    fn a_restore_names_the_places_to_choose_from() {
        let line = "tenantry restore acme --latest".split(' ');

        let error = read::<Cli>(line).unwrap_err().to_string();

        for place in ["--in-place", "--as <SLUG>", "--table <TABLE>"] {
            assert!(error.contains(place), "{error}");
        }
    }

    #[test]
    fn who_gives_something_else_than_an_id_is_told_how_one_looks() {
        let read = id("`tenantry backup list` shows them");

        assert!(read("0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f").is_ok());
        assert_eq!(
            read("nope").unwrap_err(),
            "an id looks like 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f; `tenantry backup list` shows them"
        );
    }

    #[test]
    fn names_and_reasons_are_bounded_and_not_blank() {
        for (good, text) in [
            (true, "Acme & Söhne".to_owned()),
            (true, "ä".repeat(200)),
            (false, "ä".repeat(201)),
            (false, String::new()),
            (false, " ".to_owned()),
        ] {
            assert_eq!(name(&text).is_ok(), good, "{text:?}");
        }
        assert!(reason("unpaid\nsince March").is_ok());
        for bad in [String::new(), "  ".to_owned(), "x".repeat(MAX_REASON_CHARS + 1)] {
            assert!(reason(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_has_64_digits() {
        let key = "0a".repeat(32);

        assert_eq!(public_key(&format!(" {key}\n")), Ok(key.clone()));
        for bad in ["bad", "", &key[1..], &"g".repeat(64)] {
            assert!(public_key(bad).is_err(), "{bad}");
        }
    }
}
