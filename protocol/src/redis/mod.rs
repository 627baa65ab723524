//! Redis: RESP2 and RESP3 (Redis documentation, "Redis serialization protocol specification").
