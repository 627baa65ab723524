"""LISTEN and NOTIFY with psycopg and asyncpg through sidepool in transaction mode: more clients listen than there are connections."""

import asyncio
import os
import threading

import asyncpg
import psycopg

URL = os.environ["POSTGRES_URL"]
LISTENERS = 12


def psycopg_listener(number, ready, heard):
    with psycopg.connect(URL, autocommit=True) as connection:
        connection.execute(f"LISTEN own_{number}")
        connection.execute('LISTEN "All of Us"')
        ready.wait()
        got = {}
        for notification in connection.notifies(timeout=30):
            assert notification.pid > 0
            got[notification.channel] = notification.payload
            if len(got) == 2:
                break
        # It is a client like any other.
        assert connection.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (2,)
        heard[number] = got
        connection.execute("UNLISTEN *")
        assert connection.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (0,)


def with_psycopg():
    ready, heard = threading.Barrier(LISTENERS + 1), {}
    threads = [threading.Thread(target=psycopg_listener, args=(number, ready, heard)) for number in range(LISTENERS)]
    for thread in threads:
        thread.start()
    ready.wait()
    with psycopg.connect(URL) as connection:
        for number in range(LISTENERS):
            connection.execute("SELECT pg_notify(%s, %s)", (f"own_{number}", f"to {number}"))
        connection.execute("""NOTIFY "All of Us", 'to all'""")
        connection.commit()
        connection.execute("""NOTIFY "All of Us", 'never'""")
        connection.rollback()
    for thread in threads:
        thread.join()
    assert heard == {number: {f"own_{number}": f"to {number}", "All of Us": "to all"} for number in range(LISTENERS)}, heard


async def with_asyncpg():
    connections = [await asyncpg.connect(URL) for _ in range(LISTENERS)]
    heard = asyncio.Queue()
    for number, connection in enumerate(connections):
        await connection.add_listener("jobs", lambda _, pid, channel, payload, number=number: heard.put_nowait((number, payload)))
    pool = await asyncpg.create_pool(URL, min_size=10, max_size=10)
    await asyncio.gather(*(pool.execute("SELECT pg_notify('jobs', $1)", str(job)) for job in range(50)))
    got = [await asyncio.wait_for(heard.get(), 30) for _ in range(50 * LISTENERS)]
    assert sorted(got) == sorted((number, str(job)) for number in range(LISTENERS) for job in range(50))
    # All in the same order.
    orders = {tuple(job for who, job in got if who == number) for number in range(LISTENERS)}
    assert len(orders) == 1, orders
    for connection in connections:
        # As its pools do between two users: UNLISTEN * among others.
        await connection.reset()
        async with connection.transaction():
            assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    await pool.close()


with_psycopg()
asyncio.run(with_asyncpg())
print("psycopg", psycopg.__version__, "and asyncpg", asyncpg.__version__, "hear what they listen to")
