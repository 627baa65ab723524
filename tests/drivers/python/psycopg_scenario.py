"""psycopg through sidepool: a small shop with prepared statements, pipelines, copies, transactions and many threads."""

import os
import threading
import time

import psycopg
from psycopg import sql

URL = os.environ["POSTGRES_URL"]


def main():
    with psycopg.connect(URL, autocommit=True) as connection:
        connection.execute("CREATE TABLE item (id serial PRIMARY KEY, name text UNIQUE, stock int)")
        with connection.cursor().copy("COPY item (name, stock) FROM STDIN") as copy:
            for number in range(500):
                copy.write_row((f"item {number}", 100))
        assert connection.execute("SELECT count(*), sum(stock) FROM item").fetchone() == (500, 50_000)
        with connection.cursor().copy("COPY item TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 500

    # Prepared on the server by the sixth time, and used from then on, on whatever connection comes.
    with psycopg.connect(URL, autocommit=True, prepare_threshold=3) as connection:
        for number in range(20):
            row = connection.execute("SELECT name FROM item WHERE id = %s", (number + 1,)).fetchone()
            assert row == (f"item {number}",)

    # A pipeline: answers in order, an error ends only its own transaction.
    with psycopg.connect(URL, autocommit=True) as connection, connection.pipeline() as pipeline:
        cursors = [connection.execute("SELECT %s::int * 2", (number,)) for number in range(100)]
        pipeline.sync()
        assert [cursor.fetchone()[0] for cursor in cursors] == [number * 2 for number in range(100)]

    with psycopg.connect(URL) as connection:
        try:
            with connection.transaction():
                connection.execute("UPDATE item SET stock = stock - 1 WHERE id = 1")
                with connection.transaction():
                    connection.execute("INSERT INTO item (name, stock) VALUES ('item 1', 0)")
        except psycopg.errors.UniqueViolation as error:
            assert error.diag.constraint_name == "item_name_key"
        assert connection.execute("SELECT stock FROM item WHERE id = 1").fetchone() == (100,)

    # A cursor on the server, fetched in pieces inside a transaction.
    with psycopg.connect(URL) as connection, connection.cursor(name="piecewise") as cursor:
        cursor.itersize = 50
        cursor.execute("SELECT id FROM item ORDER BY id")
        assert [row[0] for row in cursor] == list(range(1, 501))

    # Thirty threads on three connections.
    failures = []

    def buy(buyer):
        try:
            with psycopg.connect(URL, autocommit=True, application_name=f"buyer {buyer}") as connection:
                for number in range(20):
                    with connection.transaction():
                        connection.execute("UPDATE item SET stock = stock - 1 WHERE id = %s", (number + 10,))
                    name = connection.execute("SHOW application_name").fetchone()[0]
                    assert name == f"buyer {buyer}", name
        except Exception as error:  # noqa: BLE001 - told below, whatever it is
            failures.append(f"buyer {buyer}: {error!r}")

    threads = [threading.Thread(target=buy, args=(buyer,)) for buyer in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    with psycopg.connect(URL) as connection:
        query = sql.SQL("SELECT sum(stock) FROM {}").format(sql.Identifier("item"))
        assert connection.execute(query).fetchone() == (50_000 - 600,)

    # A cancel through the driver.
    def cancel(connection):
        with psycopg.connect(URL, autocommit=True) as other:
            # One that comes before the query is nobody's.
            while not other.execute("SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'").rowcount:
                time.sleep(0.01)
        connection.cancel()

    with psycopg.connect(URL, autocommit=True) as connection:
        threading.Thread(target=cancel, args=(connection,)).start()
        try:
            connection.execute("SELECT pg_sleep(60)")
            raise AssertionError("it was not cancelled")
        except psycopg.errors.QueryCanceled:
            pass
        assert connection.execute("SELECT 1").fetchone() == (1,)
    print("psycopg", psycopg.__version__, "is content")


main()
