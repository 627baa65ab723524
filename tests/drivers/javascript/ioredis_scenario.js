// ioredis through sidepool: automatic pipelining, MULTI, WATCH, blocking pops, publish and subscribe, scripts, several databases.
const assert = require('node:assert/strict');
const { Redis } = require('ioredis');

const connect = (options) => new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: 2, ...options });

async function main() {
  const client = connect({ enableAutoPipelining: true });
  await client.flushall();
  assert.equal(await client.set('greeting', 'hello', 'EX', 60), 'OK');
  const values = await Promise.all(Array.from({ length: 500 }, () => client.incr('counter')));
  assert.deepEqual(values, Array.from({ length: 500 }, (_, index) => index + 1));
  await client.hset('user', { name: 'Ada', age: 36 });
  assert.deepEqual(await client.hgetall('user'), { name: 'Ada', age: '36' });
  assert.deepEqual(await client.pipeline().set('a', 1).incr('a').lpush('a', 'x').get('a').exec().then((all) => all.map(([error, value]) => error?.message.split(' ')[0] ?? value)), ['OK', 2, 'WRONGTYPE', '2']);
  assert.deepEqual(await client.multi().incr('a').incr('a').exec(), [[null, 3], [null, 4]]);
  client.defineCommand('add', { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  assert.equal(await client.add('a', 6), 10);
  const buffer = Buffer.from([0, 255, 13, 10, 0]);
  await client.set('bytes', buffer);
  assert.deepEqual(await client.getBuffer('bytes'), buffer);

  const watcher = connect();
  await watcher.watch('a');
  await client.set('a', 'changed');
  assert.equal(await watcher.multi().set('a', 'lost').exec(), null);

  const worker = connect();
  const job = worker.brpop('queue', 10);
  await client.lpush('queue', 'job');
  assert.deepEqual(await job, ['queue', 'job']);

  const subscriber = connect();
  const heard = [];
  const three = new Promise((resolve) => {
    const note = (...words) => heard.push(words.join(' ')) === 3 && resolve();
    subscriber.on('message', (channel, text) => note(channel, text));
    subscriber.on('pmessage', (pattern, channel, text) => note(pattern, channel, text));
  });
  assert.equal(await subscriber.subscribe('news', 'sport'), 2);
  assert.equal(await subscriber.psubscribe('ne*'), 3);
  await client.publish('news', 'today');
  await client.publish('sport', 'goal');
  await three;
  assert.deepEqual(heard.sort(), ['ne* news today', 'news today', 'sport goal']);
  assert.equal(await subscriber.unsubscribe('news', 'sport'), 1);
  assert.equal(await subscriber.punsubscribe('ne*'), 0);
  assert.equal(await subscriber.get('a'), 'changed');

  const other = connect({ db: 7 });
  assert.equal(await other.get('a'), null);
  await other.set('a', 'in seven');
  assert.equal(await client.get('a'), 'changed');
  await assert.rejects(client.call('NOSUCHCOMMAND'), /unknown command/);

  const crowd = Array.from({ length: 40 }, () => connect());
  const echoes = await Promise.all(crowd.map((one, index) => Promise.all(Array.from({ length: 25 }, (_, round) => one.echo(`${index}-${round}`)))));
  echoes.forEach((list, index) => list.forEach((text, round) => assert.equal(text, `${index}-${round}`)));
  for (const one of [client, watcher, worker, subscriber, other, ...crowd]) await one.quit();
  console.log('ioredis is content');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
