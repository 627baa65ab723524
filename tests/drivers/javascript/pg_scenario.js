// node-postgres through sidepool: named statements, a pool of its own, transactions, errors, many at once.
const assert = require('node:assert/strict');
const { Client, Pool } = require('pg');

const connectionString = process.env.POSTGRES_URL;

async function main() {
  const client = new Client({ connectionString });
  await client.connect();
  await client.query('CREATE TABLE note (id serial PRIMARY KEY, body jsonb, at timestamptz DEFAULT now())');
  await client.query('INSERT INTO note (body) SELECT jsonb_build_object($1::text, n) FROM generate_series(1, 100) n', ['n']);
  for (let round = 1; round <= 20; round++) {
    const { rows } = await client.query({ name: 'fetch-note', text: 'SELECT body, at FROM note WHERE id = $1', values: [round] });
    assert.deepEqual(rows[0].body, { n: round });
    assert.ok(rows[0].at instanceof Date);
  }
  await client.query('BEGIN');
  await client.query('DELETE FROM note');
  await assert.rejects(client.query('SELECT nothing'), { code: '42703' });
  await assert.rejects(client.query('SELECT 1'), { code: '25P02' });
  await client.query('ROLLBACK');
  assert.equal((await client.query('SELECT count(*)::int AS n FROM note')).rows[0].n, 100);
  const several = await client.query('SELECT 1 AS a; SELECT 2 AS b');
  assert.deepEqual(several.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }]);
  const notices = [];
  client.on('notice', (notice) => notices.push(notice.message));
  await client.query("DO $$ BEGIN RAISE NOTICE 'heard'; END $$");
  assert.deepEqual(notices, ['heard']);
  await client.end();

  const pool = new Pool({ connectionString, max: 25 });
  const answers = await Promise.all(
    Array.from({ length: 500 }, (_, number) =>
      pool.query({ name: `double-${number % 7}`, text: `SELECT $1::int * 2 + ${number % 7} AS n`, values: [number] })),
  );
  answers.forEach(({ rows }, number) => assert.equal(rows[0].n, number * 2 + (number % 7)));
  await Promise.all(
    Array.from({ length: 50 }, async () => {
      const connection = await pool.connect();
      try {
        await connection.query('BEGIN');
        await connection.query("UPDATE note SET body = jsonb_set(body, '{n}', to_jsonb((body->>'n')::int + 1)) WHERE id = 1");
        await connection.query('COMMIT');
      } finally {
        connection.release();
      }
    }),
  );
  assert.equal((await pool.query('SELECT body FROM note WHERE id = 1')).rows[0].body.n, 51);
  await assert.rejects(new Client({ connectionString: connectionString.replace('app-secret', 'wrong') }).connect(), { code: '28P01' });
  await pool.end();
  console.log('node-postgres is content');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
