//! What the tests of sqlx expect of their helper crate, which is not published: connections, and macros that make tests of a type from pairs of an
//! SQL expression and its value. Not here: whether the server finds sent and own values equal; only what comes back is compared.

pub use {anyhow, paste, sqlx};

use sqlx::pool::PoolOptions;
use sqlx::{Connection, Database, Pool};

/// `DATABASE_URL` is set by whoever runs the tests.
pub fn setup_if_needed() {}

fn url() -> anyhow::Result<String> {
    Ok(std::env::var("DATABASE_URL")?)
}

pub async fn new<DB: Database>() -> anyhow::Result<DB::Connection> {
    Ok(DB::Connection::connect(&url()?).await?)
}

pub async fn pool<DB: Database>() -> anyhow::Result<Pool<DB>> {
    Ok(PoolOptions::new().max_connections(5).connect(&url()?).await?)
}

/// Sent and received, with a prepared statement and, as text, with a simple query.
#[macro_export]
macro_rules! test_type {
    ($name:ident<$ty:ty>($db:ident, $sql:literal, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::test_type!($name<$ty>($db, $($text == $value),+));
    };
    ($name:ident<$ty:ty>($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::test_simple_type!($name<$ty>($db, $($text == $value),+));
        $crate::test_prepared_type!($name<$ty>($db, $($text == $value),+));
    };
    ($name:ident<$ty:ty>($db:ident, $($text:literal ~= $value:expr),+ $(,)?)) => {
        $crate::test_type!($name<$ty>($db, $($text == $value),+));
    };
    ($name:ident<$ty:ty>($db:ident, $($text:literal @= $value:expr),+ $(,)?)) => {
        $crate::test_type!($name<$ty>($db, $($text == $value),+));
    };
    ($name:ident($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::test_type!($name<$name>($db, $($text == $value),+));
    };
}

/// Received in both ways.
#[macro_export]
macro_rules! test_decode_type {
    ($name:ident<$ty:ty>($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::paste::item! {
            #[sqlx_macros::test]
            async fn [<decoded_ $name>]() -> $crate::anyhow::Result<()> {
                use $crate::sqlx::Row as _;
                let mut connection = $crate::new::<$db>().await?;
                $({
                    let row = $crate::sqlx::query(concat!("SELECT ", $text)).fetch_one(&mut connection).await?;
                    assert_eq!($value, row.try_get_unchecked::<$ty, _>(0)?, "{}", $text);
                })+
                Ok(())
            }
        }
    };
}

/// Received as the text of a simple query.
#[macro_export]
macro_rules! test_simple_type {
    ($name:ident<$ty:ty>($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::paste::item! {
            #[sqlx_macros::test]
            async fn [<simple_ $name>]() -> $crate::anyhow::Result<()> {
                use $crate::sqlx::{Executor as _, Row as _};
                let mut connection = $crate::new::<$db>().await?;
                $({
                    let row = connection.fetch_one(concat!("SELECT ", $text)).await?;
                    assert_eq!($value, row.try_get_unchecked::<$ty, _>(0)?, "{}", $text);
                })+
                Ok(())
            }
        }
    };
}

/// Sent and received with a prepared statement.
#[macro_export]
macro_rules! test_prepared_type {
    ($name:ident<$ty:ty>($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::paste::item! {
            #[sqlx_macros::test]
            async fn [<prepared_ $name>]() -> $crate::anyhow::Result<()> {
                use $crate::sqlx::Row as _;
                let mut connection = $crate::new::<$db>().await?;
                $({
                    let query = $crate::sqlx::query(concat!("SELECT ", $text, ", $1"));
                    let row = query.bind($value).fetch_one(&mut connection).await?;
                    assert_eq!($value, row.try_get_unchecked::<$ty, _>(0)?, "{}", $text);
                    assert_eq!($value, row.try_get_unchecked::<$ty, _>(1)?, "{}", $text);
                })+
                Ok(())
            }
        }
    };
}
