//! One spelling for what PostgreSQL spells in two ways.
//!
//! It writes `title in ('a', 'b')` on a varchar column as a cast of an array, and once it has read that from a
//! dump, as an array of casts. A database that was restored would differ for ever in what nobody changed.

/// The statement with every cast of an array as an array of casts.
pub(super) fn canonical(statement: &str) -> String {
    const OPEN: &str = "(ARRAY[";
    let mut written = String::with_capacity(statement.len());
    let mut rest = statement;
    while let Some(at) = rest.find(OPEN) {
        written.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some((elements, kind, len)) = cast_of_array(&rest[OPEN.len()..]) {
            let cast = |element: &&str| format!("({element})::{kind}");
            let elements: Vec<String> = elements.iter().map(cast).collect();
            written.extend(["ARRAY[", &elements.join(", "), "]"]);
            rest = &rest[OPEN.len() + len..];
        } else {
            written.push_str(OPEN);
            rest = &rest[OPEN.len()..];
        }
    }
    written + rest
}

/// Reads `a, b])::kind[]`: the elements, their type, and how long all of it is.
fn cast_of_array(text: &str) -> Option<(Vec<&str>, &str, usize)> {
    let (elements, inside) = elements(text)?;
    let after = text[inside..].strip_prefix("])::")?;
    let kind = &after[..after.find("[]")?];
    let is_name = |c: char| c.is_alphanumeric() || " _.\"".contains(c);
    let is_plain = kind.chars().all(is_name)
        && elements.iter().all(|element| !element.is_empty() && !element.starts_with("ARRAY["));
    is_plain.then(|| (elements, kind, inside + "])::".len() + kind.len() + "[]".len()))
}

/// What stands between commas before the bracket that closes, and where that is.
fn elements(text: &str) -> Option<(Vec<&str>, usize)> {
    let (mut found, mut begin, mut depth, mut quote) = (Vec::new(), 0, 0_u32, None);
    for (at, c) in text.char_indices() {
        if let Some(open) = quote {
            // A doubled quote closes and opens again.
            quote = (c != open).then_some(open);
            continue;
        }
        match c {
            '\'' | '"' => quote = Some(c),
            '(' | '[' => depth += 1,
            ']' if depth == 0 => {
                found.push(text[begin..at].trim());
                return Some((found, at));
            }
            ')' | ']' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                found.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cast_of_an_array_is_an_array_of_casts() {
        let made = "CHECK (((s)::text = ANY ((ARRAY['a, ]'::character varying, 'it''s'::character varying])::text[])))";
        let restored = "CHECK (((s)::text = ANY (ARRAY[('a, ]'::character varying)::text, ('it''s'::character varying)::text])))";

        assert_eq!(canonical(made), restored);
        assert_eq!(canonical(restored), restored);
    }

    #[test]
    fn everything_else_stays() {
        for statement in [
            "create table public.boards",
            "CHECK ((n = ANY (ARRAY[1, 2])))",
            "f((ARRAY[1, 2]))",
            "f((ARRAY[1, 2",
            "((ARRAY[ARRAY[1], ARRAY[2]])::bigint[])",
            "'(ARRAY['::text",
        ] {
            assert_eq!(canonical(statement), statement);
        }
    }
}
