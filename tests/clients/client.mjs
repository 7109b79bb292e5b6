// What node-postgres does for an application. Needs DATABASE_URL.

import assert from 'node:assert/strict';
import pg from 'pg';

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 4 });
const numbers = Array.from({ length: 50 }, (_, number) => number);
const answers = await Promise.all(numbers.map((n) => pool.query('select $1::int as n', [n])));
assert.deepEqual(answers.map(({ rows }) => rows[0].n), numbers);

const client = await pool.connect();
await client.query('begin');
const inserted = await client.query({ name: 'insert', text: 'insert into boards (title) values ($1) returning id, title', values: ['one'] });
assert.deepEqual([inserted.rowCount, inserted.rows[0].title], [1, 'one']);
await client.query({ name: 'insert', values: ['two'], text: 'insert into boards (title) values ($1) returning id, title' });
await client.query('listen news');
await client.query('rollback');
const { rows: columns } = await client.query(
  "select column_name, data_type from information_schema.columns where table_name = 'boards' order by 1");
assert.ok(columns.some(({ column_name, data_type }) => column_name === 'title' && data_type === 'text'));
await assert.rejects(client.query('select datname from pg_database'), { code: '42501' });
const { rows: [own] } = await client.query('select current_database() as d, current_user as u');
assert.equal(own.d, own.u);
client.release();
await pool.end();
console.log('ok');
