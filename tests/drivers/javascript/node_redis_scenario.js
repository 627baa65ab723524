// node-redis through sidepool with its defaults: pipelining by itself, MULTI, WATCH, blocking pops, publish and subscribe, streams, scripts, both versions.
const assert = require('node:assert/strict');
const { createClient, defineScript, WatchError } = require('redis');

async function connect(options) {
  const client = createClient({ url: process.env.REDIS_URL, ...options });
  client.on('error', (error) => { throw error; });
  return client.connect();
}

async function scenario(RESP) {
  const scripts = { add: defineScript({ SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])", NUMBER_OF_KEYS: 1, parseCommand: (parser, key, by) => { parser.pushKey(key); parser.push(String(by)); }, transformReply: undefined }) };
  const client = await connect({ RESP, scripts, name: 'scenario' });
  await client.flushAll();
  assert.equal(await client.clientGetName(), 'scenario');
  assert.equal(await client.set('greeting', 'hello', { expiration: { type: 'EX', value: 60 } }), 'OK');
  const values = await Promise.all(Array.from({ length: 500 }, () => client.incr('counter')));
  assert.deepEqual(values, Array.from({ length: 500 }, (_, index) => index + 1));
  await client.hSet('user', { name: 'Ada', age: '36' });
  assert.deepEqual({ ...(await client.hGetAll('user')) }, { name: 'Ada', age: '36' });
  await client.zAdd('board', [{ score: 1.5, value: 'a' }, { score: 2, value: 'b' }]);
  assert.deepEqual(await client.zRangeWithScores('board', 0, -1), [{ score: 1.5, value: 'a' }, { score: 2, value: 'b' }]);
  assert.deepEqual(await client.multi().set('a', '1').incr('a').get('a').exec(), ['OK', 2, '2']);
  assert.equal(await client.add('a', 8), 10);
  await assert.rejects(client.sendCommand(['NOSUCHCOMMAND']), /unknown command/);
  await assert.rejects(client.lPush('a', 'x'), /WRONGTYPE/);

  const watcher = await client.duplicate().connect();
  await watcher.watch('a');
  await client.set('a', 'changed');
  await assert.rejects(watcher.multi().set('a', 'lost').exec(), WatchError);
  assert.deepEqual(await watcher.multi().get('a').exec(), ['changed']);

  const worker = await client.duplicate().connect();
  const job = worker.blPop('queue', 10);
  await client.rPush('queue', 'job');
  assert.deepEqual({ ...(await job) }, { key: 'queue', element: 'job' });
  const waiting = worker.xRead({ key: 'stream', id: '$' }, { BLOCK: 10000 });
  while (!(await client.info('clients')).includes('blocked_clients:1'));
  await client.xAdd('stream', '1-1', { field: 'value' });
  assert.match(JSON.stringify(await waiting), /"field":"value"/);

  const subscriber = await client.duplicate().connect();
  const heard = [];
  let done;
  const three = new Promise((resolve) => { done = resolve; });
  const note = (...words) => heard.push(words.join(' ')) === 3 && done();
  await subscriber.subscribe(['news', 'sport'], (text, channel) => note(channel, text));
  await subscriber.pSubscribe('ne*', (text, channel) => note('pattern', channel, text));
  await client.publish('news', 'today');
  await client.publish('sport', 'goal');
  await three;
  assert.deepEqual(heard.sort(), ['news today', 'pattern news today', 'sport goal']);
  await subscriber.unsubscribe();
  await subscriber.pUnsubscribe();
  assert.equal(String(await subscriber.get('a')), 'changed');

  const other = await connect({ RESP, database: 7 });
  assert.equal(await other.get('a'), null);
  await other.set('a', 'in seven');
  assert.equal(await client.get('a'), 'changed');
  const keys = [];
  for await (const some of client.scanIterator({ COUNT: 2 })) keys.push(...some);
  assert.deepEqual([...new Set(keys)].sort(), ['a', 'board', 'counter', 'greeting', 'stream', 'user']);
  for (const one of [client, watcher, worker, subscriber, other]) await one.close();
}

async function main() {
  for (const RESP of [2, 3]) await scenario(RESP);
  console.log('node-redis is content');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
