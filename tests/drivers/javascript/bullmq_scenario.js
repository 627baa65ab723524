// BullMQ through sidepool with its defaults: scripts for every step of a job, a blocking pop for the next one, a blocking read of the stream of events.
const assert = require('node:assert/strict');
const { Queue, Worker, QueueEvents, FlowProducer } = require('bullmq');

async function main() {
  const url = new URL(process.env.REDIS_URL);
  const connection = { host: url.hostname, port: Number(url.port) };
  const queue = new Queue('mail', { connection });
  const events = new QueueEvents('mail', { connection });
  await events.waitUntilReady();
  const seen = [];
  const work = async (job) => {
    if (job.name === 'stubborn' && job.attemptsMade < 2) throw new Error('not yet');
    if (job.name === 'parent') return Object.values(await job.getChildrenValues()).reduce((sum, value) => sum + value, 0);
    await job.updateProgress(50);
    seen.push(job.data.number);
    return job.data.number * 2;
  };
  const workers = Array.from({ length: 3 }, () => new Worker('mail', work, { connection, concurrency: 5 }));
  await Promise.all(workers.map((worker) => worker.waitUntilReady()));

  const jobs = await queue.addBulk(Array.from({ length: 100 }, (_, number) => ({ name: 'plain', data: { number } })));
  const results = await Promise.all(jobs.map((job) => job.waitUntilFinished(events, 30000)));
  assert.deepEqual(results, Array.from({ length: 100 }, (_, number) => number * 2));
  assert.deepEqual(seen.sort((a, b) => a - b), Array.from({ length: 100 }, (_, number) => number), 'each job once');
  const late = await queue.add('late', { number: 7 }, { delay: 500 });
  assert.equal(await late.waitUntilFinished(events, 30000), 14);
  const stubborn = await queue.add('stubborn', { number: 8 }, { attempts: 3, backoff: { type: 'fixed', delay: 50 } });
  assert.equal(await stubborn.waitUntilFinished(events, 30000), 16);
  const flow = new FlowProducer({ connection });
  const children = [1, 2, 3].map((number) => ({ name: 'child', queueName: 'mail', data: { number } }));
  const tree = await flow.add({ name: 'parent', queueName: 'mail', data: {}, children });
  assert.equal(await tree.job.waitUntilFinished(events, 30000), 12);
  const counts = await queue.getJobCounts('completed', 'failed', 'active', 'waiting');
  assert.deepEqual(counts, { completed: 106, failed: 0, active: 0, waiting: 0 });

  await Promise.all(workers.map((worker) => worker.close()));
  for (const one of [queue, events, flow]) await one.close();
  console.log('BullMQ is content');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
