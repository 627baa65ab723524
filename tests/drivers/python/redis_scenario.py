"""redis-py through sidepool: both protocol versions, pipelines, transactions, blocking pops, publish and subscribe, scripts."""

import os
import threading

import redis

URL = os.environ["REDIS_URL"]


def scenario(protocol):
    client = redis.Redis.from_url(URL, protocol=protocol, decode_responses=True)
    client.flushall()
    assert client.ping()
    assert client.set("greeting", "hello", ex=60)
    assert client.get("greeting") == "hello" and 0 < client.ttl("greeting") <= 60
    client.hset("user", mapping={"name": "Ada", "age": "36"})
    assert client.hgetall("user") == {"name": "Ada", "age": "36"}
    client.zadd("board", {"a": 1.5, "b": 2})
    assert [tuple(pair) for pair in client.zrange("board", 0, -1, withscores=True)] == [("a", 1.5), ("b", 2.0)]

    with client.pipeline(transaction=False) as pipeline:
        for number in range(200):
            pipeline.incr("counter")
        assert pipeline.execute() == list(range(1, 201))
    with client.pipeline(transaction=True) as pipeline:
        pipeline.set("a", 1).incr("a").get("a")
        assert pipeline.execute() == [True, 2, "2"]

    def add_ten(pipeline):
        value = int(pipeline.get("a"))
        pipeline.multi()
        pipeline.set("a", value + 10)

    threads = [threading.Thread(target=client.transaction, args=(add_ten, "a")) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("a") == "102"

    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert script(keys=["a"], args=[8]) == 110
    assert script(keys=["a"], args=[0]) == 110

    popped = []
    waiter = threading.Thread(target=lambda: popped.append(client.blpop(["queue"], timeout=10)))
    waiter.start()
    client.rpush("queue", "job")
    waiter.join()
    assert [list(pair) for pair in popped] == [["queue", "job"]]
    assert client.blpop(["queue"], timeout=0.1) is None

    subscription = client.pubsub()
    subscription.subscribe("news")
    subscription.psubscribe("ne*")
    kinds = [subscription.get_message(timeout=5)["type"] for _ in range(2)]
    assert kinds == ["subscribe", "psubscribe"]
    client.publish("news", "today")
    messages = [subscription.get_message(timeout=5) for _ in range(2)]
    assert sorted(message["type"] for message in messages) == ["message", "pmessage"]
    assert {message["data"] for message in messages} == {"today"}
    subscription.close()

    other = redis.Redis.from_url(URL, db=5, protocol=protocol, decode_responses=True)
    assert other.get("a") is None
    other.set("a", "in five")
    assert client.get("a") == "110" and other.get("a") == "in five"
    assert sorted(client.scan_iter(count=2)) == ["a", "board", "counter", "greeting", "user"]
    client.xadd("stream", {"field": "value"})
    assert len(client.xrange("stream")) == 1
    try:
        client.incr("greeting")
        raise AssertionError("a text was incremented")
    except redis.ResponseError as error:
        assert "not an integer" in str(error)
    with client.lock("lock", timeout=5):
        assert client.exists("lock")
    assert not client.exists("lock")


for version in (2, 3):
    scenario(version)
print("redis-py", redis.__version__, "is content")
