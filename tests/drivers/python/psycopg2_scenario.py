"""psycopg2 through sidepool, with its defaults: every statement in a transaction that the driver begins, settings by SET, cursors on the server."""

import io
import os
import select
import threading
import time

import psycopg2
import psycopg2.extensions
import psycopg2.pool
from psycopg2.extras import execute_values

URL = os.environ["POSTGRES_URL"]


def shop():
    with psycopg2.connect(URL) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE item2 (id serial PRIMARY KEY, name text UNIQUE, stock int)")
        execute_values(cursor, "INSERT INTO item2 (name, stock) VALUES %s", [(f"item {number}", 100) for number in range(300)])
        cursor.copy_expert("COPY item2 (name, stock) FROM STDIN", io.StringIO("copied\t1\nalso\t2\n"))
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT name FROM item2 WHERE stock < 10 ORDER BY stock) TO STDOUT", out)
        assert out.getvalue() == "copied\nalso\n"
    # Committed on the way out; the connection stays. A transaction that fails is rolled back in the same way.
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("UPDATE item2 SET stock = 0")
            cursor.execute("INSERT INTO item2 (name) VALUES ('copied')")
        raise AssertionError("it is not unique")
    except psycopg2.errors.UniqueViolation as error:
        assert error.diag.constraint_name == "item2_name_key"
    with connection, connection.cursor(name="piecewise") as cursor:
        cursor.itersize = 50
        cursor.execute("SELECT stock FROM item2")
        assert sum(row[0] for row in cursor) == 30_003
    # A cursor that outlives its transaction keeps the connection until it is closed.
    held = connection.cursor(name="held", withhold=True)
    held.execute("SELECT id FROM item2 ORDER BY id")
    connection.commit()
    assert held.fetchmany(2) == [(1,), (2,)]
    connection.commit()
    assert held.fetchone() == (3,)
    held.close()
    connection.commit()
    connection.close()


def settings():
    one, two = psycopg2.connect(URL, options="-c work_mem=3MB"), psycopg2.connect(URL)
    one.set_session(isolation_level="serializable", readonly=True)
    one.set_client_encoding("LATIN1")
    two.autocommit = True

    def shown(connection, name):
        with connection.cursor() as cursor:
            cursor.execute(f"SHOW {name}")
            value = cursor.fetchone()[0]
        if not connection.autocommit:
            connection.commit()
        return value

    for _ in range(5):
        assert shown(two, "work_mem") != "3MB" and shown(two, "client_encoding") == "UTF8"
        assert shown(one, "work_mem") == "3MB" and shown(one, "client_encoding") == "LATIN1"
        assert shown(one, "transaction_isolation") == "serializable" and shown(one, "transaction_read_only") == "on"
    with one.cursor() as cursor:
        cursor.execute("SELECT %s", ("é",))
        assert cursor.fetchone() == ("é",)
    one.reset()
    assert shown(one, "transaction_isolation") == "read committed"
    one.close()
    two.close()


def notifications():
    busy, quiet, notifier = (psycopg2.connect(URL) for _ in range(3))
    quiet.autocommit = notifier.autocommit = True
    for listener in (busy, quiet):
        with listener.cursor() as cursor:
            cursor.execute("LISTEN news")
    busy.commit()
    with busy.cursor() as cursor:
        cursor.execute("SELECT 1")
    with notifier.cursor() as cursor:
        cursor.execute("NOTIFY news, 'fresh'")
    while not quiet.notifies:
        assert select.select([quiet], [], [], 30)[0], "nothing came"
        quiet.poll()
    assert not busy.notifies, "not inside of a transaction"
    busy.commit()
    # With the answer to the COMMIT, as from the server itself: nobody has to poll.
    assert [notify.payload for notify in busy.notifies] == ["fresh"]
    for connection in (busy, quiet, notifier):
        connection.close()


def cancel(connection):
    other = psycopg2.connect(URL)
    other.autocommit = True
    with other.cursor() as cursor:
        # One that comes before the query is nobody's.
        while True:
            cursor.execute("SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'")
            if cursor.rowcount:
                break
            time.sleep(0.01)
    other.close()
    connection.cancel()


def threads():
    pool = psycopg2.pool.ThreadedConnectionPool(1, 20, URL)
    failures = []

    def buy(buyer):
        try:
            for number in range(15):
                connection = pool.getconn()
                with connection, connection.cursor() as cursor:
                    cursor.execute("UPDATE item2 SET stock = stock - 1 WHERE id = %s", (number + 10,))
                pool.putconn(connection)
        except Exception as error:  # noqa: BLE001 - told below, whatever it is
            failures.append(f"buyer {buyer}: {error!r}")

    buyers = [threading.Thread(target=buy, args=(buyer,)) for buyer in range(20)]
    for thread in buyers:
        thread.start()
    for thread in buyers:
        thread.join()
    assert not failures, failures
    connection = pool.getconn()
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT sum(stock) FROM item2")
        assert cursor.fetchone() == (30_003 - 300,)
        threading.Thread(target=cancel, args=(connection,)).start()
        try:
            cursor.execute("SELECT pg_sleep(60)")
            raise AssertionError("it was not cancelled")
        except psycopg2.extensions.QueryCanceledError:
            connection.rollback()
    pool.closeall()


shop()
settings()
notifications()
threads()
print("psycopg2", psycopg2.__version__, "is content")
