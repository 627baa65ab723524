//! Settings of the command line that stand beside a configuration file, and win over it. Each says which part of the file it is for; where
//! that is not one part, it is a problem.

use crate::environment::{Given, Overrides, parse_listens, parse_pool_size};
use crate::file::{parse_admin, parse_choice, parse_workers};
use crate::listen::Protocol;
use crate::model::{Config, Listen};
use crate::problem::Problem;

/// Puts the overrides over what the file says. `whole` is false where parts of the file could not be read: nothing is then said to be missing.
pub(crate) fn apply(config: &mut Config, overrides: &Overrides, whole: bool) -> Vec<Problem> {
    let Overrides {
        pool_size,
        postgres_listen,
        redis_listen,
        admin_listen,
        workers,
        log_level,
        log_format,
        // Belong to URLs, beside which there is no file.
        default_user: _,
        default_password: _,
        database_alias: _,
        // Can be said in the environment only, which has no say beside a file.
        pool_mode: _,
        drain_timeout: _,
        quitquitquit: _,
    } = overrides;
    let mut problems = Vec::new();
    let Config {
        workers: threads,
        io_backend: _,
        memory_limit: _,
        upgrade_socket: _,
        admin,
        drain: _,
        log,
        postgres: _,
        redis: _,
        pgbouncer: _,
    } = config;
    replace(threads, workers.as_ref(), parse_workers, &mut problems);
    replace(&mut admin.listen, admin_listen.as_ref(), parse_admin, &mut problems);
    replace(&mut log.level, log_level.as_ref(), parse_choice, &mut problems);
    replace(&mut log.format, log_format.as_ref(), parse_choice, &mut problems);
    let mut size = None;
    replace(&mut size, pool_size.as_ref(), |text| parse_pool_size(text).map(Some), &mut problems);
    if let Some(size) = size {
        size_pools(config, size);
    }
    if let Some(given) = postgres_listen {
        let listen = config.postgres.as_mut().map(|postgres| &mut postgres.listen).ok_or("the file has no section [postgres]");
        replace_listen(listen, given, Protocol::Postgres, whole, &mut problems);
    }
    if let Some(given) = redis_listen {
        let mut sections = config.redis.values_mut();
        let listen = match (sections.next(), sections.next()) {
            (Some(only), None) => Ok(&mut only.listen),
            (None, _) => Err("the file has no section [redis.NAME]"),
            (Some(_), Some(_)) => Err("the file has several sections [redis.NAME], each with listeners of its own: set listen in the file"),
        };
        replace_listen(listen, given, Protocol::Redis, whole, &mut problems);
    }
    problems
}

/// Every pool, whatever the file says about one of them.
fn size_pools(config: &mut Config, size: u32) {
    if let Some(postgres) = &mut config.postgres {
        postgres.databases.values_mut().for_each(|database| database.limits.pool_size = size);
        postgres.users.values_mut().for_each(|user| user.pool_size = None);
    }
    config.redis.values_mut().for_each(|redis| redis.limits.pool_size = size);
}

fn replace_listen(listen: Result<&mut Vec<Listen>, &str>, given: &Given, protocol: Protocol, whole: bool, problems: &mut Vec<Problem>) {
    match listen {
        Ok(listen) => replace(listen, Some(given), |text| parse_listens(text, protocol), problems),
        Err(why) if whole => problems.push(given.error(why)),
        Err(_) => {}
    }
}

fn replace<T>(value: &mut T, given: Option<&Given>, parse: impl Fn(&str) -> Result<T, String>, problems: &mut Vec<Problem>) {
    let Some(given) = given else { return };
    match given.read(parse) {
        Ok(read) => *value = read,
        Err(problem) => problems.push(problem),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::file::load_text_over;
    use crate::model::{LogFormat, LogLevel, Workers};

    const FILE: &str = "workers = 1\n[admin]\nlisten = \"127.0.0.1:9000\"\n[log]\nconnections = true\n\
        [postgres]\nlisten = \"127.0.0.1:6000\"\ndefault_pool_size = 9\n[postgres.databases.a]\nhost = \"h\"\npool_size = 8\n\
        [postgres.users.u]\npassword = \"p\"\npool_size = 7\n[redis.c]\nurl = \"redis://h\"\nlisten = \"127.0.0.1:7000\"\n";

    fn said(pairs: &[(&str, &str)]) -> Overrides {
        let flag = |name: &str| pairs.iter().find(|(flag, _)| *flag == name).map(|(name, text)| Given::on_command_line(name, text));
        Overrides {
            pool_size: flag("--pool-size"),
            postgres_listen: flag("--postgres-listen"),
            redis_listen: flag("--redis-listen"),
            admin_listen: flag("--admin-listen"),
            workers: flag("--workers"),
            log_level: flag("--log-level"),
            log_format: flag("--log-format"),
            ..Overrides::default()
        }
    }

    fn problems(file: &str, pairs: &[(&str, &str)]) -> String {
        load_text_over(file, Path::new("f"), &|_| None, &said(pairs)).unwrap_err().to_string()
    }

    #[test]
    fn each_flag_wins_over_the_file_and_leaves_the_rest() {
        let overrides = said(&[
            ("--pool-size", "30"),
            ("--postgres-listen", "127.0.0.1:1,127.0.0.1:2"),
            ("--redis-listen", "127.0.0.1:3"),
            ("--admin-listen", "off"),
            ("--workers", "auto"),
            ("--log-level", "debug"),
            ("--log-format", "json"),
        ]);
        let config = load_text_over(FILE, Path::new("f"), &|_| None, &overrides).unwrap().config;
        assert_eq!((config.workers, config.admin.listen), (Workers::Auto, None));
        assert_eq!((config.log.level, config.log.format, config.log.connections), (LogLevel::Debug, LogFormat::Json, true));
        let postgres = config.postgres.unwrap();
        assert_eq!(postgres.listen.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!((postgres.databases["a"].limits.pool_size, postgres.users["u"].pool_size), (30, None));
        assert_eq!((config.redis["c"].limits.pool_size, config.redis["c"].listen[0].to_string()), (30, "127.0.0.1:3".to_owned()));
    }

    #[test]
    fn every_wrong_flag_is_named_beside_what_is_wrong_in_the_file() {
        let text = problems(&format!("{FILE}pool_sice = 4\n"), &[("--pool-size", "0"), ("--log-level", "wran"), ("--workers", "many")]);
        for line in ["f:18: redis.c.pool_sice: ", "command line: --pool-size: ", "command line: --log-level: ", "command line: --workers: "]
        {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_flag_that_clashes_is_blamed_and_not_the_file() {
        let text = problems(FILE, &[("--redis-listen", "127.0.0.1:9000")]);
        assert!(text.starts_with("command line: --redis-listen: 127.0.0.1:9000 is taken by admin.listen"), "{text}");
        let text = problems(&format!("{FILE}min_pool_size = 5\n"), &[("--pool-size", "3")]);
        assert!(text.contains("min_pool_size (5) is more than pool_size (3)"), "{text}");
    }

    #[test]
    fn a_listener_without_its_one_section_is_refused() {
        let redis = "[redis.a]\nurl = \"redis://h\"\nlisten = \"127.0.0.1:1\"\n";
        let text = problems(redis, &[("--postgres-listen", "127.0.0.1:2")]);
        assert_eq!(text, "command line: --postgres-listen: the file has no section [postgres]");
        let two = format!("{redis}[redis.b]\nurl = \"redis://h\"\nlisten = \"127.0.0.1:2\"\n");
        let text = problems(&two, &[("--redis-listen", "127.0.0.1:3")]);
        assert!(text.contains("--redis-listen: the file has several sections"), "{text}");
        let text = problems("[postgres\n", &[("--postgres-listen", "127.0.0.1:2")]);
        assert!(!text.contains("no section"), "what cannot be read may have been it: {text}");
    }
}
