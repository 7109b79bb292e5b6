// What the client of SQL over HTTP makes of our answers. Needs SQL_URL and SQL_TOKEN.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { neon, neonConfig, types } from '@neondatabase/serverless';

neonConfig.fetchEndpoint = process.env.SQL_URL;
// `fetchOptions` would put its headers in place of the client's own.
let tenant = 'acme';
neonConfig.fetchFunction = (url, request) => fetch(url, { ...request, headers: { ...request.headers, 'X-Tenant': tenant } });
const options = { authToken: process.env.SQL_TOKEN };
const string = 'postgresql://user:secret@localhost/tenant_acme';
const sql = neon(string, options);

async function value(expression, ...params) {
  const rows = await sql.query(`select ${expression} as v`, params);
  return rows[0].v;
}

test('values of every type that the client parses', async () => {
  const expected = [
    ["7::int2", 7], ["-7::int4", -7], ["9007199254740993::int8", '9007199254740993'],
    ["12345678901234567890.123456789::numeric", '12345678901234567890.123456789'],
    ["'NaN'::numeric", 'NaN'],
    ["1.5::float4", 1.5], ["0.1::float8", 0.1], ["1e300::float8", 1e300],
    ["'NaN'::float8", NaN], ["'Infinity'::float8", Infinity], ["'-Infinity'::float4", -Infinity],
    ["true", true], ["false", false], ["null", null], ["'ä \"\\ \n'::text", 'ä "\\ \n'], ["''::text", ''],
    ["'\\x00ff'::bytea", Buffer.from([0, 255])],
    [`'{"a": [1, {"b": null}]}'::json`, { a: [1, { b: null }] }], [`'[1.5, "x"]'::jsonb`, [1.5, 'x']],
    ["'2024-02-29'::date", new Date(2024, 1, 29)], ["'13:14:15.5'::time", '13:14:15.5'],
    ["'2024-02-29 12:00:00+00'::timestamptz", new Date('2024-02-29T12:00:00Z')],
    ["'2024-02-29 12:00:00'::timestamp", new Date(2024, 1, 29, 12)],
    ["'infinity'::timestamptz", Infinity],
    ["'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'::uuid", 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'],
    ["array[1, null, 3]", [1, null, 3]], ["array[[1, 2], [3, 4]]", [[1, 2], [3, 4]]], ["'{}'::int[]", []],
    [`array['a b', 'NULL', null, 'q"\\,}']`, ['a b', 'NULL', null, 'q"\\,}']],
    ["array[true, false]", [true, false]], ["array[1.5, 'NaN']::float8[]", [1.5, NaN]],
    [`array['{"a": 1}'::jsonb]`, [{ a: 1 }]],
    ["int4range(1, 5)", '[1,5)'], ["'sad'::mood", 'sad'], ["row(1, 'x y')::pair", '(1,"x y")'],
    ["point(1.5, -2)", { x: 1.5, y: -2 }],
  ];
  for (const [expression, wanted] of expected) {
    assert.deepEqual(await value(expression), wanted, expression);
  }
  const interval = await value("'1 year 2 mons 3 days 04:05:06.7'::interval");
  assert.deepEqual({ ...interval }, { years: 1, months: 2, days: 3, hours: 4, minutes: 5, seconds: 6, milliseconds: 700 });
});

test('styles of the server do not reach the client', async () => {
  const [, , [row]] = await sql.transaction([
    sql`select 1`, sql`select 2`, sql`select '2024-02-29'::date::text as d, '1 day'::interval::text as i`,
  ]);
  assert.deepEqual(row, { d: '2024-02-29', i: '1 day' });
});

test('parameters of every kind', async () => {
  const moment = new Date('2024-02-29T12:00:00.123Z');
  const cases = [
    ['$1::text', 'it\'s "text" \\ ä', 'it\'s "text" \\ ä'], ['$1::text', '', ''],
    ['$1::int', 7, 7], ['$1::float8', -1.25, -1.25], ['$1::int8', '9007199254740993', '9007199254740993'],
    ['$1::bool', true, true], ['$1::text', null, null], ['$1::text', undefined, null],
    ['$1::jsonb', { a: [1, null, 'x'] }, { a: [1, null, 'x'] }],
    ['$1::int[]', [1, null, 3], [1, null, 3]], ['$1::int[]', [[1, 2], [3, 4]], [[1, 2], [3, 4]]], ['$1::int[]', [], []],
    ['$1::text[]', ['a,b', 'q"\\', 'NULL', '', null, '{}'], ['a,b', 'q"\\', 'NULL', '', null, '{}']],
    ['$1::bool[]', [true, false], [true, false]],
    ['$1::timestamptz', moment, moment], ['$1::bytea', Buffer.from([0, 1, 255]), Buffer.from([0, 1, 255])],
    ['$1::mood', 'happy', 'happy'],
  ];
  for (const [expression, given, wanted] of cases) {
    assert.deepEqual(await value(expression, given), wanted, `${expression} ${JSON.stringify(given)}`);
  }
  const injection = "'; drop table boards; --";
  assert.equal((await sql`select ${injection} as v`)[0].v, injection);
});

test('array mode and full results', async () => {
  const both = neon(string, { ...options, arrayMode: true, fullResults: true });
  const result = await both`select 1 as a, 'x' as a`;
  assert.deepEqual([result.rows, result.command, result.rowCount], [[[1, 'x']], 'SELECT', 1]);
  assert.deepEqual(result.fields.map((field) => [field.name, field.dataTypeID]), [['a', types.builtins.INT4], ['a', 25]]);
  const full = neon(string, { ...options, fullResults: true });
  const inserted = await full`insert into boards (title) values ('one'), ('two')`;
  assert.deepEqual([inserted.command, inserted.rowCount, inserted.rows, inserted.fields], ['INSERT', 2, [], []]);
  const returned = await full`delete from boards returning title`;
  assert.deepEqual([returned.rowCount, returned.rows], [2, [{ title: 'one' }, { title: 'two' }]]);
  assert.ok(returned.fields[0].tableID > 0 && returned.fields[0].columnID === 2);
});

test('a transaction has the options that it was given', async () => {
  const ask = (isolationLevel, readOnly, deferrable) => sql.transaction([
    sql`select current_setting('transaction_isolation') as i, current_setting('transaction_read_only') as r,
        current_setting('transaction_deferrable') as d, txid_current_if_assigned() as x`,
    sql`select pg_backend_pid()`,
  ], { isolationLevel, readOnly, deferrable });
  for (const [level, name] of [['ReadUncommitted', 'read uncommitted'], ['ReadCommitted', 'read committed'],
    ['RepeatableRead', 'repeatable read'], ['Serializable', 'serializable']]) {
    const [[row]] = await ask(level, false, false);
    assert.deepEqual([row.i, row.r, row.d], [name, 'off', 'off']);
  }
  const [[row]] = await ask('Serializable', true, true);
  assert.deepEqual([row.i, row.r, row.d], ['serializable', 'on', 'on']);
  const writing = sql.transaction([sql`insert into boards (title) values ('x')`], { readOnly: true });
  await assert.rejects(writing, { code: '25006' });
});

test('a transaction that fails leaves nothing behind', async () => {
  const failing = sql.transaction([
    sql`insert into boards (title) values ('lost')`, sql`select 1 / ${0}::int`, sql`insert into boards (title) values ('never')`,
  ]);
  await assert.rejects(failing, { name: 'NeonDbError', code: '22012', message: 'division by zero' });
  const deferred = sql.transaction([sql`insert into events (id, parent) values (1, 2)`, sql`select 1`]);
  await assert.rejects(deferred, { code: '23503', constraint: 'events_parent_fkey' });
  assert.deepEqual(await sql`select title from boards`, []);
  assert.deepEqual(await sql`select id from events`, []);
});

test('an error has its fields', async () => {
  await sql`insert into events (id) values (7)`;
  const twice = await sql`insert into events (id) values (7)`.then(() => assert.fail(), (error) => error);
  assert.equal(twice.name, 'NeonDbError');
  assert.deepEqual([twice.code, twice.severity, twice.schema, twice.table, twice.constraint, twice.detail],
    ['23505', 'ERROR', 'public', 'events', 'events_pkey', 'Key (id)=(7) already exists.']);
  assert.ok(twice.file && twice.routine && /^\d+$/.test(twice.line));
  await assert.rejects(sql`select nothing from boards`, { code: '42703', position: '8' });
  await assert.rejects(sql`do $$ begin perform 1 / 0; end $$`, { code: '22012', where: /PL\/pgSQL function/ });
});

test('who is not let in hears so', async () => {
  const stranger = neon(string, { ...options, authToken: 'nonsense' });
  await assert.rejects(stranger`select 1`, /HTTP status 401/);
  const elsewhere = neon('postgresql://user:secret@localhost/tenant_globex', options);
  await assert.rejects(elsewhere`select 1`, /HTTP status 403/);
  tenant = 'nobody';
  await assert.rejects(sql`select 1`, { code: '3D000' }).finally(() => { tenant = 'acme'; });
});

test('many at a time', async () => {
  const numbers = Array.from({ length: 100 }, (_, number) => number);
  const answers = await Promise.all(numbers.map((number) => sql`select ${number}::int as n`));
  assert.deepEqual(answers.map(([row]) => row.n), numbers);
});

test('a caller who aborts is not waited for', async () => {
  const leaving = sql.query('select pg_sleep(600)', [], { fetchOptions: { signal: AbortSignal.timeout(200) } });
  await assert.rejects(leaving);
});
