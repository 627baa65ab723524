//! What is played. A script has a line each: `NAME = user:U database:D password:P …` logs in (`:=` also compares what
//! is reported then), `NAME VERB TEXT` does something; the verbs are in
//! the parent module. Timeouts of a second are set by the console when only what is to run into them is left to do.

/// The configuration that both poolers start with.
pub(crate) const INI: &str = "
[databases]
app = host=127.0.0.1 port=SERVER_PORT dbname=app
forced = host=127.0.0.1 port=SERVER_PORT dbname=app user=app password=app-secret-0815 pool_size=7 min_pool_size=0 reserve_pool=2
sessions = host=127.0.0.1 port=SERVER_PORT dbname=app pool_mode=session
statements = host=127.0.0.1 port=SERVER_PORT dbname=app pool_mode=statement
missing = host=127.0.0.1 port=SERVER_PORT dbname=no_such_database
wrong = host=127.0.0.1 port=SERVER_PORT dbname=app user=app password=not-the-password
dead = host=127.0.0.1 port=1 dbname=app

[users]
second = pool_mode=session max_user_connections=3

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = LISTEN_PORT
unix_socket_dir = SOCKET_DIRECTORY
auth_type = md5
auth_file = USERS_FILE
admin_users = admin
stats_users = stats
pool_mode = transaction
default_pool_size = 5
ignore_startup_parameters = extra_float_digits
server_login_retry = 1
MORE_SETTINGS
";

/// The file with the users' secrets.
pub(crate) const USERS: &str = "\
\"app\" \"app-secret-0815\"
\"second\" \"second-secret\"
\"admin\" \"admin-secret\"
\"stats\" \"stats-secret\"
\"hashed\" \"md59d2b1e1e3ac8b0ec6b3e6f7b0a4ab31a\"
";

/// A file that a setting of a scenario names.
pub(crate) const HBA: &str = "\
host all admin all trust
host app app 127.0.0.1/32 md5
host app second 127.0.0.0 255.0.0.0 password
host sessions second 127.0.0.1/32 scram-sha-256
host app stats all reject
";

/// One thing that clients do.
pub(crate) struct Scenario {
    /// What it is about.
    pub(crate) name: &'static str,
    /// Settings beside those that all have.
    pub(crate) settings: &'static str,
    /// What is done.
    pub(crate) script: &'static str,
}

const fn plays(name: &'static str, settings: &'static str, script: &'static str) -> Scenario {
    Scenario { name, settings, script }
}

/// All of them.
pub(crate) const SCENARIOS: &[Scenario] = &[
    plays(
        "logins",
        "",
        "a := user:app database:app password:app-secret-0815
        b = user:app database:app password:wrong
        c = user:nobody database:app password:wrong
        d = user:app database:nowhere password:app-secret-0815
        e = user:app database:nowhere password:wrong
        f = user:app password:app-secret-0815
        g = user:second database:forced password:second-secret
        h := user:app database:app password:app-secret-0815 extra_float_digits:2 application_name:shop client_encoding:LATIN1 DateStyle:German TimeZone:Europe/Zurich
        h query SHOW application_name
        h query SHOW timezone
        i = user:app database:missing password:app-secret-0815
        j = user:app database:wrong password:app-secret-0815
        k = user:hashed database:app password:wrong",
    ),
    plays(
        "logins by scram",
        "auth_type = scram-sha-256",
        "a = user:app database:app password:app-secret-0815
        b = user:app database:app password:wrong
        c = user:nobody database:app password:wrong
        d = user:app database:nowhere password:app-secret-0815",
    ),
    plays(
        "logins in clear text",
        "auth_type = plain",
        "a = user:app database:app password:app-secret-0815
        b = user:app database:app password:wrong
        c = user:nobody database:app password:wrong",
    ),
    plays(
        "logins by trust",
        "auth_type = trust",
        "a = user:app database:app
        c = user:nobody database:app",
    ),
    plays(
        "logins of anybody",
        "auth_type = any",
        "a = user:whoever database:forced
        b = user:whoever database:app",
    ),
    plays(
        "simple queries",
        "",
        "a = user:app database:app password:app-secret-0815
        a query SELECT 1 AS one, NULL AS nothing, 'x' AS text
        a query SELECT 1; SELECT 2
        a query SELECT 1; SELECT 1 / 0; SELECT 3
        a query SELEKT
        a query
        a query BEGIN
        a query SELECT 1 / 0
        a query SELECT 1
        a query COMMIT
        a query INSERT INTO note VALUES (1, 'a'), (2, 'b')
        a query BEGIN; DELETE FROM note
        a query ROLLBACK
        a query SELECT count(*) FROM note
        a query SELECT current_user, session_user, current_database()
        a query TRUNCATE note",
    ),
    plays(
        "extended queries",
        "",
        "a = user:app database:app password:app-secret-0815
        a extended SELECT 1 AS one
        a extended SELEKT
        a batch SELECT 1;; SELECT 2;; SELECT 3
        a batch SELECT 1;; SELECT 1 / 0;; SELECT 3
        a extended BEGIN
        a batch SELECT 1;; SELEKT
        a extended SELECT 1
        a extended ROLLBACK
        a extended SELECT 'fine'",
    ),
    plays(
        "statement mode",
        "",
        "a = user:app database:statements password:app-secret-0815
        a query SELECT 1
        a query BEGIN
        b = user:app database:statements password:app-secret-0815
        b query SELECT 'others go on'",
    ),
    plays(
        "session mode",
        "",
        "a = user:app database:sessions password:app-secret-0815
        a query SET search_path = pg_catalog
        a query SHOW search_path
        a leave
        b = user:app database:sessions password:app-secret-0815
        b query SHOW search_path
        c = user:second database:app password:second-secret
        c query SET work_mem = '1MB'
        c query SHOW work_mem",
    ),
    plays(
        "no room",
        "max_client_conn = 2",
        "a = user:app database:app password:app-secret-0815
        b = user:app database:app password:app-secret-0815
        c = user:app database:app password:app-secret-0815
        admin = user:admin database:pgbouncer password:admin-secret
        a leave
        b query SELECT 1",
    ),
    plays(
        "a wait that is too long",
        "default_pool_size = 1",
        "admin = user:admin database:pgbouncer password:admin-secret
        a = user:app database:app password:app-secret-0815
        b = user:app database:app password:app-secret-0815
        a query BEGIN
        admin query SET query_wait_timeout = 1
        b send SELECT 1
        b read
        a query COMMIT",
    ),
    plays(
        "a query that is too long",
        "",
        "admin = user:admin database:pgbouncer password:admin-secret
        a = user:app database:app password:app-secret-0815
        a query SELECT 1
        admin query SET query_timeout = 1
        a send SELECT pg_sleep(60)
        a closed",
    ),
    plays(
        "an idle transaction",
        "idle_transaction_timeout = 1",
        "a = user:app database:app password:app-secret-0815
        a query BEGIN
        a closed",
    ),
    plays(
        "an idle client",
        "",
        "admin = user:admin database:pgbouncer password:admin-secret
        a = user:app database:app password:app-secret-0815
        a query SELECT 1
        admin query SET client_idle_timeout = 1
        a closed",
    ),
    plays(
        "cancelled",
        "",
        "a = user:app database:app password:app-secret-0815
        a send SELECT pg_sleep(60)
        a runs pg_sleep(60)
        a cancel
        a read
        a query SELECT 'goes on'",
    ),
    plays(
        "a dead server",
        "client_login_timeout = 2",
        "a = user:app database:dead password:app-secret-0815",
    ),
    plays(
        "console logins",
        "",
        "a := user:admin database:pgbouncer password:admin-secret
        b = user:stats database:pgbouncer password:stats-secret
        c = user:app database:pgbouncer password:app-secret-0815
        d = user:admin database:pgbouncer password:wrong
        e = user:admin database:pgbouncer password:admin-secret extra_float_digits:2
        b query RELOAD
        b query PAUSE
        b columns SHOW POOLS
        b query SHOW FDS
        b query SHUTDOWN
        b query SET stats_period = 30",
    ),
    plays(
        "console tables",
        "",
        "c = user:app database:app password:app-secret-0815
        c query SELECT 1
        a = user:admin database:pgbouncer password:admin-secret
        a columns SHOW VERSION
        a columns SHOW CONFIG
        a keys SHOW CONFIG
        a columns SHOW DATABASES
        a keys SHOW DATABASES
        a columns SHOW POOLS
        a keys SHOW POOLS
        a columns SHOW CLIENTS
        a keys SHOW CLIENTS
        a columns SHOW SERVERS
        a keys SHOW SERVERS
        a columns SHOW SOCKETS
        a columns SHOW ACTIVE_SOCKETS
        a columns SHOW USERS
        a keys SHOW USERS
        a columns SHOW LISTS
        a keys SHOW LISTS
        a columns SHOW STATS
        a keys SHOW STATS
        a columns SHOW STATS_TOTALS
        a columns SHOW STATS_AVERAGES
        a columns SHOW TOTALS
        a keys SHOW TOTALS
        a columns SHOW MEM
        a columns SHOW DNS_HOSTS
        a columns SHOW DNS_ZONES
        a query SHOW STATE
        a columns SHOW FDS",
    ),
    plays(
        "console words",
        "",
        "a = user:admin database:pgbouncer password:admin-secret
        a columns SHOW HELP
        a columns show pools;
        a columns SELECT POOLS
        a query SHOW
        a query SHOW NOTHING
        a query FROB
        a query
        a query ;
        a query SHOW POOLS; SHOW LISTS
        a query SHOW client_encoding
        a query SHOW timezone
        a query SHOW datestyle
        a query SHOW standard_conforming_strings
        a query SHOW default_transaction_isolation
        a query SET client_encoding = 'UTF8'
        a query SET no_such_setting = 1
        a query SET default_pool_size = 9
        a query SET default_pool_size = many
        a query SET
        a query PAUSE nowhere
        a query RESUME nowhere
        a query KILL nowhere
        a query DISABLE nowhere
        a query ENABLE nowhere
        a query RECONNECT nowhere
        a query WAIT_CLOSE nowhere
        a query DISABLE
        a query ENABLE
        a query PAUSE pgbouncer
        a query SHUTDOWN NOW",
    ),
    plays(
        "console commands",
        "",
        "c = user:app database:app password:app-secret-0815
        c query SELECT 1
        a = user:admin database:pgbouncer password:admin-secret
        a query RELOAD
        a query RESUME
        a query PAUSE
        a query SHOW STATE
        a query PAUSE
        c send SELECT 'waits for resume'
        c silent
        a query RESUME
        c read
        a query PAUSE app
        a query PAUSE app
        c send SELECT 'waits, too'
        a query RESUME app
        c read
        a query RESUME app
        a query RECONNECT
        c query SELECT 'a new connection'
        a query RECONNECT app
        a query WAIT_CLOSE
        a query WAIT_CLOSE app
        a query DISABLE app
        d = user:app database:app password:app-secret-0815
        c query SELECT 'who is in stays in'
        a query ENABLE app
        d = user:app database:app password:app-secret-0815
        a query KILL app
        c closed
        d closed
        a query RESUME app",
    ),
    plays(
        "the reserve",
        "default_pool_size = 1
        reserve_pool_size = 1
        reserve_pool_timeout = 1",
        "a = user:app database:app password:app-secret-0815
        b = user:app database:app password:app-secret-0815
        c = user:app database:app password:app-secret-0815
        a query BEGIN
        b query BEGIN
        b query SELECT 'from the reserve'
        c send SELECT 'has to wait'
        c silent
        a query COMMIT
        c read",
    ),
    plays(
        "at most so many servers of a database",
        "max_db_connections = 1",
        "admin = user:admin database:pgbouncer password:admin-secret
        a = user:app database:app password:app-secret-0815
        b = user:second database:app password:second-secret
        a query SELECT 'first'
        b query SELECT 'takes the place of an idle one'
        b query BEGIN
        admin query SET query_wait_timeout = 1
        a send SELECT 'finds no room'
        a read",
    ),
    plays(
        "at most so many servers of a user",
        "max_user_connections = 1",
        "admin = user:admin database:pgbouncer password:admin-secret
        a = user:app database:app password:app-secret-0815
        b = user:app database:sessions password:app-secret-0815
        a query SELECT 'first'
        b query SELECT 'takes the place of an idle one'
        admin query SET query_wait_timeout = 1
        a send SELECT 'finds no room'
        a read",
    ),
    plays(
        "no simple queries",
        "disable_pqexec = 1",
        "a = user:app database:app password:app-secret-0815
        a extended SELECT 1
        a query SELECT 1",
    ),
    plays(
        "a login that takes too long",
        "client_login_timeout = 1",
        "a = connect
        a closed",
    ),
    plays(
        "startup parameters",
        "",
        "a := user:app database:app password:app-secret-0815 standard_conforming_strings:off
        a query SHOW standard_conforming_strings
        b = user:app database:app password:app-secret-0815 geqo:off
        c = user:app database:app password:app-secret-0815 options:-c geqo=off
        d = user:app database:app password:app-secret-0815 options:--no-such-thing
        e = user:app database:app password:app-secret-0815 DateStyle:nonsense",
    ),
    plays(
        "startup parameters that are ignored",
        "ignore_startup_parameters = extra_float_digits, geqo, options",
        "b = user:app database:app password:app-secret-0815 geqo:off
        d = user:app database:app password:app-secret-0815 options:--no-such-thing",
    ),
    plays(
        "the host in the application's name",
        "application_name_add_host = 1",
        "a = user:app database:app password:app-secret-0815 application_name:shop
        a query SELECT regexp_replace(current_setting('application_name'), ':[0-9]+$', ':PORT')",
    ),
    plays(
        "a cleaning after each transaction",
        "server_reset_query_always = 1
        server_reset_query = DISCARD ALL
        default_pool_size = 1",
        "a = user:app database:app password:app-secret-0815
        a query SET work_mem = '1MB'
        a query SHOW work_mem",
    ),
    plays(
        "users that are looked up",
        "auth_user = app
        auth_query = SELECT $1::text, case when $1 <> 'nobody' then 'looked-up' end",
        "a = user:open database:app password:looked-up
        a query SELECT current_user
        b = user:open database:app password:wrong
        c = user:app database:app password:app-secret-0815
        d = user:nobody database:app password:wrong",
    ),
    plays(
        "rules for hosts",
        "auth_type = hba
        auth_hba_file = SOCKET_DIRECTORY/hba.conf",
        "a = user:app database:app password:app-secret-0815
        b = user:second database:app password:second-secret
        c = user:second database:sessions password:second-secret
        d = user:stats database:app password:stats-secret
        e = user:app database:forced password:app-secret-0815
        f = user:admin database:pgbouncer password:admin-secret",
    ),
    plays(
        "every name is a database",
        "max_client_conn = 50
        [databases]
        * = host=127.0.0.1 port=SERVER_PORT",
        "a = user:app database:other password:app-secret-0815
        a query SELECT current_database()
        b = user:app database:nowhere password:app-secret-0815
        c = user:app database:app password:app-secret-0815
        c query SELECT current_database()",
    ),
    plays(
        "what a database brings along",
        "max_client_conn = 50
        [databases]
        own = host=127.0.0.1 port=SERVER_PORT dbname=app client_encoding=LATIN1 datestyle=German timezone=Asia/Tokyo application_name=ours
        query = host=127.0.0.1 port=SERVER_PORT dbname=app connect_query='SET work_mem = ''7MB'''
        failing = host=127.0.0.1 port=SERVER_PORT dbname=app connect_query='SELECT 1/0'
        two = host=127.0.0.1,127.0.0.1 port=SERVER_PORT dbname=app",
        "a := user:app database:own password:app-secret-0815
        a query SHOW timezone
        b = user:app database:query password:app-secret-0815
        b query SHOW work_mem
        c = user:app database:failing password:app-secret-0815
        c query SELECT 'all the same'
        d = user:app database:two password:app-secret-0815
        d query SELECT 1",
    ),
    plays(
        "copies",
        "",
        "a = user:app database:app password:app-secret-0815
        a query COPY (SELECT generate_series(1, 3)) TO STDOUT
        a copy COPY note FROM STDIN
        a copy COPY note FROM STDIN (FORMAT binary)
        a query SELECT count(*) FROM note
        a query TRUNCATE note",
    ),
    plays(
        "notices and notifications",
        "",
        "a = user:app database:app password:app-secret-0815
        a query DO $$ BEGIN RAISE NOTICE 'look'; RAISE WARNING 'out'; END $$
        a query LISTEN news; NOTIFY news, 'here'",
    ),
    plays(
        "a message that is none",
        "",
        "a = user:app database:app password:app-secret-0815
        a tag y
        b = user:app database:app password:app-secret-0815
        b query SELECT 'others go on'",
    ),
    plays(
        "encryption that is not there",
        "",
        "a = connect
        a ssl",
    ),
    plays(
        "settings that are set",
        "",
        "a = user:admin database:pgbouncer password:admin-secret
        a query SET default_pool_size = 1
        a query SET max_client_conn = 3
        a query SET server_check_delay = 0
        a query SET log_connections = 0
        c = user:app database:app password:app-secret-0815
        d = user:app database:app password:app-secret-0815
        e = user:app database:app password:app-secret-0815
        c query BEGIN
        a query SET query_wait_timeout = 1
        d send SELECT 1
        d read
        a query SET pool_mode = nonsense
        a query SET max_client_conn = -1
        a query SET pidfile = '/tmp/other'",
    ),
    plays(
        "clients that are killed",
        "",
        "c = user:app database:app password:app-secret-0815
        d = user:app database:app password:app-secret-0815
        d query SELECT 1
        a = user:admin database:pgbouncer password:admin-secret
        a query KILL app
        c closed
        d closed
        a query RESUME app
        e = user:app database:app password:app-secret-0815
        e query SELECT 'again'",
    ),
    plays(
        "console shutdown",
        "",
        "c = user:app database:app password:app-secret-0815
        a = user:admin database:pgbouncer password:admin-secret
        a send SHUTDOWN
        a closed
        c closed",
    ),
];
