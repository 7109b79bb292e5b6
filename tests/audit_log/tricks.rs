//! What somebody who owns the catalog may do to the audit log.

use tenantry::operations::checkpoints::verify::BreachKind;

/// A way to tamper, and what is found.
pub struct Trick {
    pub name: &'static str,
    pub sql: &'static str,
    pub kind: BreachKind,
    /// The entry that is named, counted from the first of the test's own.
    pub entry: Option<i64>,
}

/// Makes every link anew from a number on, as the catalog's own functions do.
pub const RELINK: &str = "
    do $$ declare l audit_chain; h bytea; begin
        for l in select * from audit_chain where number >= $n order by number loop
            select hash into h from audit_chain where number = l.number - 1;
            l.content := coalesce((select audit_content(e) from audit_log e where e.id = l.entry), l.content);
            update audit_chain set content = l.content, hash = sha256(
                coalesce(h, decode(repeat('00', 32), 'hex')) || int8send(l.number) || int8send(l.entry) || l.content)
            where number = l.number;
        end loop;
    end $$;";

/// `$e` is the id of the first entry of the test's own, `$n` its number.
pub const TRICKS: &[Trick] = &[
    Trick {
        name: "another actor",
        sql: "update audit_log set actor = 'mallory' where id = $e + 2",
        kind: BreachKind::Altered,
        entry: Some(2),
    },
    Trick {
        name: "another detail",
        sql: "update audit_log set detail = '{}' where id = $e",
        kind: BreachKind::Altered,
        entry: Some(0),
    },
    Trick {
        name: "another time",
        sql: "update audit_log set at = at - interval '1 microsecond' where id = $e + 9",
        kind: BreachKind::Altered,
        entry: Some(9),
    },
    Trick {
        name: "an entry goes",
        sql: "delete from audit_log where id = $e + 3",
        kind: BreachKind::Removed,
        entry: Some(3),
    },
    Trick {
        name: "an entry goes with its link",
        sql: "delete from audit_log where id = $e + 3; delete from audit_chain where entry = $e + 3",
        kind: BreachKind::Removed,
        entry: None,
    },
    Trick {
        name: "the end goes",
        sql: "delete from audit_log where id >= $e + 8; delete from audit_chain where entry >= $e + 8",
        kind: BreachKind::Removed,
        entry: None,
    },
    Trick {
        name: "the beginning goes",
        sql: "delete from audit_log where id < $e; delete from audit_chain where entry < $e",
        kind: BreachKind::Removed,
        entry: None,
    },
    Trick {
        name: "an entry comes without a link",
        sql: "insert into audit_log (id, actor, action, detail) overriding system value
              values ($e + 1000, 'mallory', 'member.added', '{}')",
        kind: BreachKind::Inserted,
        entry: Some(1000),
    },
    Trick {
        name: "an entry comes in the middle, and those after it get other numbers",
        sql: "insert into audit_log (id, actor, action, detail) overriding system value
              values ($e + 1000, 'mallory', 'member.added', '{}');
              update audit_chain set number = number + 1000000 where number >= $n + 5;
              update audit_chain set number = number - 999999 where number >= 1000000;
              insert into audit_chain select $n + 5, $e + 1000, audit_content(l),
                  sha256((select hash from audit_chain where number = $n + 4)
                         || int8send($n + 5) || int8send($e + 1000) || audit_content(l))
              from audit_log l where l.id = $e + 1000",
        kind: BreachKind::Inserted,
        entry: Some(1000),
    },
    Trick {
        name: "two entries change places",
        sql:
            "update audit_log one set action = other.action, detail = other.detail, at = other.at
              from audit_log other where (one.id, other.id) in (($e + 2, $e + 6), ($e + 6, $e + 2))",
        kind: BreachKind::Reordered,
        entry: Some(6),
    },
    Trick {
        name: "two links change places",
        sql: "update audit_chain set number = -1 where number = $n + 2;
              update audit_chain set number = $n + 2 where number = $n + 6;
              update audit_chain set number = $n + 6 where number = -1",
        kind: BreachKind::Broken,
        entry: Some(6),
    },
    Trick {
        name: "a link is altered",
        sql: "update audit_chain set hash = content where entry = $e + 4",
        kind: BreachKind::Broken,
        entry: Some(4),
    },
    Trick {
        name: "a link is no digest",
        sql: "update audit_chain set hash = '' where entry = $e + 4",
        kind: BreachKind::Broken,
        entry: Some(4),
    },
];
