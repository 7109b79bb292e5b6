# What psycopg does for an application. Needs DATABASE_URL.

import os

import psycopg
from psycopg.rows import dict_row
from psycopg.types import TypeInfo
from psycopg.types.enum import EnumInfo

with psycopg.connect(os.environ["DATABASE_URL"], row_factory=dict_row) as session:
    assert session.info.server_version > 0
    for number in range(20):
        # From the fifth time on it is prepared.
        row = session.execute("select %s::int as n, current_user::text as who", [number]).fetchone()
        assert row == {"n": number, "who": session.info.user}, row
    session.execute("insert into boards (title) values (%s), (%s)", ["one", "two"])
    assert session.execute("select count(*) as n from boards where title in ('one', 'two')").fetchone()["n"] == 2
    with session.cursor() as cursor:
        with cursor.copy("copy boards (title) from stdin") as copy:
            copy.write_row(["three"])
        cursor.executemany("insert into boards (title) values (%s)", [["four"], ["five"]])
    with session.cursor(name="scrolled") as cursor:
        cursor.execute("select title from boards order by id")
        assert len(cursor.fetchmany(5)) == 5
    with session.pipeline():
        answers = [session.execute("select %s::int as n", [number]) for number in range(5)]
    assert [answer.fetchone()["n"] for answer in answers] == list(range(5))
    assert TypeInfo.fetch(session, "text").oid == 25
    assert EnumInfo.fetch(session, "pg_catalog.nothing") is None
    session.rollback()
    columns = session.execute(
        "select column_name, data_type from information_schema.columns where table_name = 'boards'"
    ).fetchall()
    assert {"column_name": "title", "data_type": "text"} in columns, columns
    try:
        session.execute("select datname from pg_database")
    except psycopg.errors.InsufficientPrivilege:
        session.rollback()
    else:
        raise AssertionError("the names of databases are not hidden")
print("ok")
