//! PostgreSQL: the frontend/backend protocol 3.0 (PostgreSQL documentation, chapter "Frontend/Backend Protocol").

pub mod frame;
pub mod splice;
pub mod statement;
pub mod tag;
pub mod tracker;
