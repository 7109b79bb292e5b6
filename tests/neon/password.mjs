// The client with nothing but a connection string. Needs SQL_URL and SQL_STRING.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { neon, neonConfig } from '@neondatabase/serverless';

neonConfig.fetchEndpoint = process.env.SQL_URL;
const sql = neon(process.env.SQL_STRING);

test('a connection string is enough', async () => {
  const [row] = await sql`select current_database() as d, current_user as u`;
  assert.deepEqual([row.d, row.u], ['tenant_acme', 'tenant_acme']);
  const [, [board]] = await sql.transaction([
    sql`insert into boards (title) values ('by the client')`, sql`select title from boards`,
  ]);
  assert.equal(board.title, 'by the client');
});

test('another password is refused, and so is another user', async () => {
  const url = new URL(process.env.SQL_STRING);
  url.password = 'wrong';
  await assert.rejects(neon(url.href)`select 1`, /HTTP status 401.*password_refused/s);
  url.username = 'tenant_nobody';
  await assert.rejects(neon(url.href)`select 1`, /HTTP status 401.*password_refused/s);
});
