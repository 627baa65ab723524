"""asyncpg through sidepool: it names and prepares every statement, keeps them in a cache, and reads types from the catalogue."""

import asyncio
import datetime
import os

import asyncpg

URL = os.environ["POSTGRES_URL"]


async def transfer(pool, number):
    # In the order of their ids, or they would wait for each other.
    changes = sorted([(number % 10 + 1, -1), ((number + 3) % 10 + 1, 1)])
    async with pool.acquire() as connection:
        async with connection.transaction():
            for account, change in changes:
                await connection.execute("UPDATE account SET balance = balance + $1 WHERE id = $2", change, account)


async def main():
    connection = await asyncpg.connect(URL)
    await connection.execute("CREATE TYPE mood AS ENUM ('calm', 'busy')")
    await connection.execute("CREATE TABLE account (id int PRIMARY KEY, balance int, mood mood DEFAULT 'calm', since timestamptz DEFAULT now())")
    await connection.executemany("INSERT INTO account VALUES ($1, $2)", [(number, 1000) for number in range(1, 11)])
    statement = await connection.prepare("SELECT * FROM account WHERE id = $1")
    row = await statement.fetchrow(3)
    assert row["mood"] == "calm" and isinstance(row["since"], datetime.datetime)
    assert statement.get_parameters()[0].name == "int4"
    result = await connection.copy_records_to_table("account", records=[(number, 0) for number in range(11, 300)], columns=["id", "balance"])
    assert result == "COPY 289"

    async with connection.transaction():
        seen = [record["id"] async for record in connection.cursor("SELECT id FROM account ORDER BY id", prefetch=20)]
    assert seen == list(range(1, 300))

    try:
        async with connection.transaction():
            await connection.execute("UPDATE account SET balance = 0")
            await connection.execute("SELECT 1 / 0")
        raise AssertionError("a division by zero went well")
    except asyncpg.DivisionByZeroError:
        pass
    assert await connection.fetchval("SELECT sum(balance) FROM account") == 10_000

    # asyncpg gives up on its own and sends a cancel request.
    try:
        await connection.execute("SELECT pg_sleep(60)", timeout=0.3)
        raise AssertionError("no timeout")
    except asyncio.TimeoutError:
        pass
    assert await connection.fetchval("SELECT 'usable'") == "usable"
    await connection.close()

    pool = await asyncpg.create_pool(URL, min_size=20, max_size=20)
    await asyncio.gather(*(transfer(pool, number) for number in range(400)))
    assert await pool.fetchval("SELECT sum(balance) FROM account") == 10_000
    await pool.close()
    print("asyncpg", asyncpg.__version__, "is content")


asyncio.run(main())
