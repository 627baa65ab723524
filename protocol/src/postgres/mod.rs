//! PostgreSQL: the frontend/backend protocol 3.0 (PostgreSQL documentation, chapter "Frontend/Backend Protocol").

pub mod encode;
pub mod fault;
pub mod parameters;
