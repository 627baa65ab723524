//! Tests of the connector against a scripted server.
