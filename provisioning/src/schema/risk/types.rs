//! Types of columns: whether rows stay as they are when a column's type changes, and which functions give each
//! row another value.

/// Functions that are often found in defaults and that are not volatile: rows need not be rewritten for them.
pub(super) const STEADY: &[&str] = &[
    "abs",
    "age",
    "array_fill",
    "btrim",
    "ceil",
    "ceiling",
    "char_length",
    "concat",
    "concat_ws",
    "current_setting",
    "date_part",
    "date_trunc",
    "daterange",
    "decode",
    "encode",
    "floor",
    "format",
    "int4range",
    "int8range",
    "json_build_array",
    "json_build_object",
    "jsonb_build_array",
    "jsonb_build_object",
    "left",
    "length",
    "lower",
    "lpad",
    "make_date",
    "make_interval",
    "make_timestamptz",
    "md5",
    "now",
    "numrange",
    "regexp_replace",
    "repeat",
    "replace",
    "right",
    "round",
    "rpad",
    "sha256",
    "split_part",
    "statement_timestamp",
    "string_to_array",
    "substr",
    "substring",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_timestamp",
    "to_tsvector",
    "transaction_timestamp",
    "trunc",
    "tsrange",
    "tstzrange",
    "upper",
];

/// Types that number rows by themselves.
pub(super) fn is_serial(ty: &str) -> bool {
    matches!(ty, "serial" | "bigserial" | "smallserial" | "serial2" | "serial4" | "serial8")
}

/// Whether rows and indexes stay as they are when a column of one type gets another.
pub(super) fn keeps_rows(old: &str, new: &str) -> bool {
    let ((from, before), (to, after)) = (parse(old), parse(new));
    let longer = match (before.first(), after.first()) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(before), Some(after)) => before <= after,
    };
    match (from.as_str(), to.as_str()) {
        ("varchar" | "varbit" | "timestamp" | "timestamptz" | "time", same) if from == same => {
            longer
        }
        ("numeric", "numeric") => {
            longer
                && (after.is_empty() || before.get(1).unwrap_or(&0) == after.get(1).unwrap_or(&0))
        }
        ("varchar", "text") | ("cidr", "inet") => true,
        ("text", "varchar") => after.is_empty(),
        (from, to) => from == to && before == after,
    }
}

/// A type's short name, and the numbers in its parentheses.
fn parse(ty: &str) -> (String, Vec<u32>) {
    let (mut name, mut numbers) = (ty.to_owned(), Vec::new());
    if let (Some(open), Some(close)) = (ty.find('('), ty.find(')'))
        && open < close
    {
        let inner = &ty[open + 1..close];
        numbers = inner.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        name = format!("{}{}", &ty[..open], &ty[close + 1..]);
    }
    let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
    let short = match name {
        "character varying" => "varchar",
        "bit varying" => "varbit",
        "character" | "bpchar" => "char",
        "decimal" => "numeric",
        "int" | "int4" | "serial" => "integer",
        "int8" | "bigserial" => "bigint",
        "int2" | "smallserial" => "smallint",
        "bool" => "boolean",
        "timestamp without time zone" => "timestamp",
        "timestamp with time zone" => "timestamptz",
        "time without time zone" => "time",
        other => other,
    };
    (short.to_owned(), numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_widenings_keep_the_rows() {
        for (old, new, keeps) in [
            ("varchar(20)", "character varying(40)", true),
            ("varchar(20)", "varchar(10)", false),
            ("varchar(20)", "text", true),
            ("text", "varchar", true),
            ("text", "varchar(10)", false),
            ("char(20)", "text", false),
            ("int", "integer", true),
            ("int", "bigint", false),
            ("numeric(10,2)", "numeric(12,2)", true),
            ("numeric(10,2)", "numeric(12,3)", false),
            ("numeric(10,2)", "numeric", true),
            ("timestamp(3) with time zone", "timestamptz", true),
            ("timestamp", "timestamptz", false),
        ] {
            assert_eq!(keeps_rows(old, new), keeps, "{old} to {new}");
        }
    }
}
