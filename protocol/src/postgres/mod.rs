//! PostgreSQL: the frontend/backend protocol 3.0 (PostgreSQL documentation, chapter "Frontend/Backend Protocol").

pub mod cancel_key;
pub mod channels;
pub mod encode;
pub mod fault;
pub mod frame;
mod hint_words;
pub mod hints;
pub mod keeps;
pub mod login;
pub mod parameters;
pub mod plain;
pub mod result;
pub mod shape;
pub mod splice;
pub mod sql;
pub mod sql_databases;
pub mod sql_listing;
pub mod sql_normal;
pub mod sql_tokens;
pub mod startup;
pub mod statement;
pub mod subscriber;
pub mod tag;
pub mod tracker;
