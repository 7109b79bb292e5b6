//! Asking before something is destroyed: on a terminal by name, elsewhere not without `--yes`.

use std::io::{self, IsTerminal as _, Write as _};

use super::{Error, Result};

/// Goes on if `yes` was given, or if somebody at the terminal types `name`.
pub(super) fn confirm(what: &str, name: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Error::refused(
            format!("not confirmed: {what}"),
            "there is no terminal to ask at; add --yes if you are sure",
        ));
    }
    let mut terminal = io::stderr();
    _ = write!(terminal, "{what}.\nType `{name}` to go on: ");
    _ = terminal.flush();
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Error::failed("the answer cannot be read", error))?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(Error::refused(
        "not confirmed; nothing was changed",
        format!("type exactly `{name}`, or use --yes"),
    ))
}
