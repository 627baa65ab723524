"""Celery through sidepool with its defaults, Redis as broker and for results: tasks wait in BRPOP, results come by subscription, a chord counts."""

import os

from celery import Celery, chord, group
from celery.contrib.testing.worker import start_worker
from kombu import Connection

URL = os.environ["REDIS_URL"]
app = Celery("scenario", broker=URL + "/0", backend=URL + "/1")


@app.task
def add(left, right):
    return left + right


@app.task(bind=True, max_retries=3)
def stubborn(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task
def total(numbers):
    return sum(numbers)


with start_worker(app, concurrency=2, pool="threads", perform_ping_check=False):
    results = [add.delay(number, number) for number in range(50)]
    assert [result.get(timeout=30) for result in results] == [2 * number for number in range(50)]
    assert group(add.s(number, 1) for number in range(10))().get(timeout=30) == list(range(1, 11))
    assert chord((add.s(number, number) for number in range(10)), total.s())().get(timeout=30) == 90
    assert (add.s(1, 2) | add.s(4))().get(timeout=30) == 7
    assert stubborn.delay().get(timeout=30) == 2
    assert add.apply_async((1, 1), countdown=0.2).get(timeout=30) == 2
    assert app.control.inspect(timeout=5).ping(), "the worker hears what is broadcast"

with Connection(URL + "/2") as connection:
    queue = connection.SimpleQueue("plain")
    for number in range(20):
        queue.put({"number": number})
    for number in range(20):
        message = queue.get(timeout=10)
        assert message.payload == {"number": number}
        message.ack()
    queue.close()
print("Celery is content")
