//! Tests of the login.
