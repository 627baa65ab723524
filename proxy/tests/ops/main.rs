//! The binary as an operator meets it: started, asked, reloaded, ended. No server is needed behind it.

mod check;
mod harness;
mod health;
mod reload;
mod start;
