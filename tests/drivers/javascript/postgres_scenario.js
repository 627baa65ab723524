// postgres.js through sidepool, with its defaults: named statements, pipelines on each connection, transactions, cursors, copies, errors.
const assert = require('node:assert/strict');
const { Readable } = require('node:stream');
const { pipeline } = require('node:stream/promises');
const postgres = require('postgres');

async function main() {
  const sql = postgres(process.env.POSTGRES_URL, { max: 20, onnotice: () => {} });
  await sql`CREATE TABLE item (id serial PRIMARY KEY, name text UNIQUE, facts jsonb, stock int DEFAULT 0)`;
  const items = Array.from({ length: 100 }, (_, index) => ({ name: `item ${index}`, facts: sql.json({ index }), stock: 10 }));
  await sql`INSERT INTO item ${sql(items, 'name', 'facts', 'stock')}`;

  // Hundreds at once: on each connection they are sent without waiting for the answers.
  const rows = await Promise.all(Array.from({ length: 500 }, (_, index) => sql`SELECT name, facts FROM item WHERE id = ${(index % 100) + 1}`));
  rows.forEach(([row], index) => {
    assert.equal(row.name, `item ${index % 100}`);
    assert.deepEqual(row.facts, { index: index % 100 });
  });

  // An error ends only its own query.
  const mixed = await Promise.allSettled(Array.from({ length: 50 }, (_, index) => sql`SELECT 10 / ${index % 5}::int AS result`));
  mixed.forEach((one, index) => {
    if (index % 5 === 0) assert.equal(one.reason.code, '22012');
    else assert.equal(one.value[0].result, Math.trunc(10 / (index % 5)));
  });

  await assert.rejects(
    sql.begin(async (transaction) => {
      await transaction`UPDATE item SET stock = 0`;
      await transaction`INSERT INTO item (name) VALUES ('item 1')`;
    }),
    { code: '23505', constraint_name: 'item_name_key' },
  );
  const [{ sum }] = await sql`SELECT sum(stock)::int FROM item`;
  assert.equal(sum, 1000);

  const kept = await sql.begin(async (transaction) => {
    await transaction`UPDATE item SET stock = stock + 1 WHERE id = 1`;
    await transaction.savepoint((savepoint) => savepoint`SELECT nothing FROM nowhere`).catch((error) => assert.equal(error.code, '42P01'));
    return transaction`SELECT stock FROM item WHERE id = 1`;
  });
  assert.equal(kept[0].stock, 11);

  await Promise.all(
    Array.from({ length: 60 }, (_, index) =>
      sql.begin(async (transaction) => {
        const [{ stock }] = await transaction`SELECT stock FROM item WHERE id = ${(index % 10) + 20} FOR UPDATE`;
        await transaction`UPDATE item SET stock = ${stock - 1} WHERE id = ${(index % 10) + 20}`;
      }),
    ),
  );
  assert.equal((await sql`SELECT sum(stock)::int FROM item WHERE id BETWEEN 20 AND 29`)[0].sum, 40);

  const seen = [];
  await sql.begin(async (transaction) => {
    for await (const chunk of transaction`SELECT id FROM item ORDER BY id`.cursor(7)) seen.push(...chunk.map((row) => row.id));
  });
  assert.equal(seen.length, 100);

  await pipeline(Readable.from(['500\tcopied\n', '501\tas well\n']), await sql`COPY item (id, name) FROM STDIN`.writable());
  let copied = '';
  for await (const chunk of await sql`COPY (SELECT name FROM item WHERE id >= 500 ORDER BY id) TO STDOUT`.readable()) copied += chunk;
  assert.equal(copied, 'copied\nas well\n');

  const slow = sql`SELECT pg_sleep(60)`;
  const cancelled = assert.rejects(slow, { code: '57014' });
  // One that comes before the query is nobody's.
  while (!(await sql`SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'`).length);
  slow.cancel();
  await cancelled;
  await sql.end();
  console.log('postgres.js is content');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
