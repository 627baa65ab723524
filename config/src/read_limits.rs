//! The limits of pools, which `[postgres]`, its databases and every `[redis.NAME]` have alike.

use crate::model::PoolLimits;
use crate::section::Section;

/// Reads those that only the pools of PostgreSQL have.
pub(crate) fn postgres_limits(section: &Section<'_>, size_name: &str, base: &PoolLimits) -> PoolLimits {
    PoolLimits {
        reserve_pool_size: section.count("reserve_pool_size").unwrap_or(base.reserve_pool_size),
        reserve_pool_timeout: section.duration("reserve_pool_timeout").unwrap_or(base.reserve_pool_timeout),
        server_check_delay: section.duration("server_check_delay").unwrap_or(base.server_check_delay),
        server_round_robin: section.flag("server_round_robin").unwrap_or(base.server_round_robin),
        max_pinned_connections: section.count("max_pinned_connections").unwrap_or(base.max_pinned_connections),
        ..limits(section, size_name, base)
    }
}

/// Reads the limits that the section has; the others are those of `base`. The size is called `size_name` here.
pub(crate) fn limits(section: &Section<'_>, size_name: &str, base: &PoolLimits) -> PoolLimits {
    let duration = |name, base| section.duration(name).unwrap_or(base);
    PoolLimits {
        pool_size: section.count(size_name).unwrap_or(base.pool_size),
        min_pool_size: section.count("min_pool_size").unwrap_or(base.min_pool_size),
        max_queue_length: section.count("max_queue_length").unwrap_or(base.max_queue_length),
        query_wait_timeout: duration("query_wait_timeout", base.query_wait_timeout),
        refuse_early: section.flag("refuse_early").unwrap_or(base.refuse_early),
        server_idle_timeout: duration("server_idle_timeout", base.server_idle_timeout),
        server_lifetime: duration("server_lifetime", base.server_lifetime),
        server_connect_timeout: duration("server_connect_timeout", base.server_connect_timeout),
        server_connect_parallelism: section.count("server_connect_parallelism").unwrap_or(base.server_connect_parallelism),
        server_connect_backoff: duration("server_connect_backoff", base.server_connect_backoff),
        server_login_retry: duration("server_login_retry", base.server_login_retry),
        ..base.clone()
    }
}
