// LISTEN and NOTIFY with node-postgres and postgres.js through sidepool in transaction mode.
const assert = require('node:assert/strict');
const { Client } = require('pg');
const postgres = require('postgres');

const connectionString = process.env.POSTGRES_URL;

async function main() {
  const clients = [];
  const heard = [];
  for (let number = 0; number < 12; number++) {
    const client = new Client({ connectionString });
    await client.connect();
    client.on('notification', ({ channel, payload }) => heard.push([number, channel, payload]));
    await client.query(`LISTEN "room ${number % 3}"`);
    clients.push(client);
  }
  const sql = postgres(connectionString, { max: 4 });
  const told = [];
  await sql.listen('room 0', (payload) => told.push(payload));
  for (let round = 0; round < 20; round++) {
    await sql.notify(`room ${round % 3}`, String(round));
  }
  const deadline = Date.now() + 30000;
  while ((heard.length < 80 || told.length < 7) && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.equal(heard.length, 80);
  assert.deepEqual(told, ['0', '3', '6', '9', '12', '15', '18']);
  for (let number = 0; number < 12; number++) {
    const own = heard.filter(([who]) => who === number).map(([, , payload]) => Number(payload));
    const expected = Array.from({ length: 20 }, (_, round) => round).filter((round) => round % 3 === number % 3);
    assert.deepEqual(own, expected);
  }
  await Promise.all(clients.map((client) => client.end()));
  await sql.end();
  console.log('node-postgres and postgres.js hear what they listen to');
}

main();
